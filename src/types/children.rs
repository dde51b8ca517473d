//! The children of a node, by name. The representation is private to this module.
//!
//! Up to [`FEW_MAX`] children are a sorted vector, the most compact form. More are a persistent ordered map, so that
//! copy-on-write under a snapshot copies one path of the map instead of all entries. A map never turns back into a
//! vector: a directory that was large is likely to grow again.
//!
//! The vector (`ThinVec`) stores its length with its entries, so a directory holds a single pointer, and a lookup
//! dereferences only that one.

use thin_vec::ThinVec;

use equivalent::Comparable;

use super::name::{Name, Short, Sought};

/// Above this size a copy of the vector costs more than a copy of one path of the map.
const FEW_MAX: usize = 32;
/// Bytes that a change of a map copies while a snapshot holds it: a node of 64 entries on each of about three levels.
const MAP_COPY_BYTES: usize = 3 * 64 * 24;
/// Entries by which a vector grows. Small, because every directory of the store pays for the slack.
const FEW_GROWTH: usize = 2;

/// Children in the order of their names ([`Name`]). With `LISTED` false, for names that no client lists, they are in
/// byte order, which makes a lookup among many cheaper.
#[derive(Clone)]
pub struct Children<T: Clone, const LISTED: bool = true>(Kept<T>);

#[derive(Clone)]
enum Kept<T: Clone> {
    Few(ThinVec<(Name, T)>),
    // In a box, so that a directory holds one pointer in either case.
    Many(Box<Many<T>>),
}

#[derive(Clone)]
struct Many<T: Clone> {
    /// The lengths of all names, each with its NUL. Kept, since each write of the node checks its size, and a sum over
    /// the map would be linear.
    names_bytes: usize,
    // In the order of the names, as DIRECTORY lists them and streams of equal states must be equal bytes.
    map: im::OrdMap<Name, T>,
}

impl<T: Clone, const LISTED: bool> Children<T, LISTED> {
    /// Returns an empty set, which allocates nothing.
    pub const fn new() -> Children<T, LISTED> {
        Children(Kept::Few(ThinVec::new()))
    }

    fn name(name: &[u8]) -> Name {
        if LISTED { Name::new(name) } else { Name::unlisted(name) }
    }

    #[inline]
    fn short(name: &[u8]) -> Option<Name> {
        Short::of(name).map(|short| if LISTED { short.listed() } else { short.unlisted() })
    }

    /// Returns the index of `name`, or where to insert it.
    fn position(few: &[(Name, T)], name: &[u8]) -> Result<usize, usize> {
        // In order, unlike `find`: an insertion needs the place.
        match Self::short(name) {
            Some(short) => few.binary_search_by(|(other, _)| other.cmp(&short)),
            None => few.binary_search_by(|(other, _)| Sought(name).compare(other).reverse()),
        }
    }

    /// Returns the number of children.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Few(few) => few.len(),
            Kept::Many(many) => many.map.len(),
        }
    }

    /// Returns whether there are no children.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the length of all names, each with its NUL: the size of a DIRECTORY reply. Cost: at most 32 additions.
    pub fn names_bytes(&self) -> usize {
        match &self.0 {
            Kept::Few(few) => names_bytes(few),
            Kept::Many(many) => many.names_bytes,
        }
    }

    /// Returns the child called `name`. Cost: logarithmic in the number of children, like every lookup here.
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        match &self.0 {
            Kept::Few(few) => find(few, name).and_then(|at| few.get(at)).map(|(_, child)| child),
            Kept::Many(many) => match Self::short(name) {
                Some(short) => many.map.get(&short),
                None => many.map.get(&Sought(name)),
            },
        }
    }

    /// Returns the child called `name` for modification. In a map shared with a snapshot, copies the path to it.
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        match &mut self.0 {
            Kept::Few(few) => {
                find(few, name).and_then(|at| few.get_mut(at)).map(|(_, child)| child)
            }
            Kept::Many(many) => match Self::short(name) {
                Some(short) => many.map.get_mut(&short),
                None => many.map.get_mut(&Sought(name)),
            },
        }
    }

    /// Adds a child, or replaces the one of that name and returns it.
    pub fn insert(&mut self, name: &[u8], child: T) -> Option<T> {
        let few = match &mut self.0 {
            Kept::Few(few) => few,
            Kept::Many(many) => return many.insert(Self::name(name), child),
        };
        match Self::position(few, name) {
            Ok(at) => return Some(std::mem::replace(&mut few[at].1, child)),
            Err(at) if few.len() < FEW_MAX => {
                if few.len() == few.capacity() {
                    few.reserve_exact(FEW_GROWTH);
                }
                few.insert(at, (Self::name(name), child));
            }
            Err(_) => {
                let names_bytes = names_bytes(few);
                let mut many = Many { names_bytes, map: few.drain(..).collect() };
                many.insert(Self::name(name), child);
                self.0 = Kept::Many(Box::new(many));
            }
        }
        None
    }

    /// Removes and returns the child called `name`.
    pub fn remove(&mut self, name: &[u8]) -> Option<T> {
        match &mut self.0 {
            Kept::Few(few) => Self::position(few, name).ok().map(|at| few.remove(at).1),
            Kept::Many(many) => {
                let removed = match Self::short(name) {
                    Some(short) => many.map.remove(&short),
                    None => many.map.remove(&Sought(name)),
                }?;
                many.names_bytes -= name.len() + 1;
                Some(removed)
            }
        }
    }

    /// Returns the approximate number of bytes that a copy takes, without shared parts: the vector's entries, or one
    /// path of the map's nodes.
    pub fn copy_bytes(&self) -> usize {
        match &self.0 {
            Kept::Few(few) => few.capacity() * size_of::<(Name, T)>(),
            Kept::Many(_) => MAP_COPY_BYTES,
        }
    }

    /// Corrupts the cached sum of name lengths (maps only), for tests of the consistency check.
    #[cfg(test)]
    pub fn falsify_names_bytes(&mut self) {
        if let Kept::Many(many) = &mut self.0 {
            many.names_bytes += 1;
        }
    }

    /// Iterates over all children in the order of their names.
    pub fn iter(&self) -> Iter<'_, T> {
        match &self.0 {
            Kept::Few(few) => Iter::Few(few.iter()),
            Kept::Many(many) => Iter::Many(many.map.iter()),
        }
    }
}

impl<T: Clone> Many<T> {
    fn insert(&mut self, name: Name, child: T) -> Option<T> {
        let len = name.bytes().len();
        let replaced = self.map.insert(name, child);
        if replaced.is_none() {
            self.names_bytes += len + 1;
        }
        replaced
    }
}

impl<T: Clone, const LISTED: bool> Default for Children<T, LISTED> {
    fn default() -> Children<T, LISTED> {
        Children::new()
    }
}

fn names_bytes<T>(few: &[(Name, T)]) -> usize {
    few.iter().map(|(name, _)| name.bytes().len() + 1).sum()
}

/// Returns the index of `name`. A linear scan of a few names beats binary search: testing names for equality is cheaper
/// than ordering them.
#[inline(always)] // Called for each component of each path; a call would cost a third of it.
fn find<T>(few: &[(Name, T)], name: &[u8]) -> Option<usize> {
    match Short::of(name) {
        Some(short) => few.iter().position(|(other, _)| short.is(other)),
        None => find_long(few, name),
    }
}

/// Like `find`, for a long name: most candidates differ in length. Not inlined, so that `find` can be.
#[inline(never)]
fn find_long<T>(few: &[(Name, T)], name: &[u8]) -> Option<usize> {
    few.iter().position(|(other, _)| other.bytes() == name)
}

/// Iterator over [`Children`].
pub enum Iter<'a, T: Clone> {
    /// Of a vector.
    Few(std::slice::Iter<'a, (Name, T)>),
    /// Of a map.
    Many(im::ordmap::Iter<'a, Name, T, im::shared_ptr::DefaultSharedPtr>),
}

impl<'a, T: Clone> Iterator for Iter<'a, T> {
    type Item = (&'a Name, &'a T);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Few(few) => few.next().map(|(name, child)| (name, child)),
            Iter::Many(many) => many.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Returns a number, a name of fixed length, or a name too long to be stored inline.
    fn name(number: u8) -> String {
        match number % 3 {
            0 => format!("{number}"),
            1 => format!("n{number:02}"),
            _ => format!("a-name-that-is-longer-{number:02}"),
        }
    }

    proptest! {
        #[test]
        fn behaves_like_an_ordered_map(steps in prop::collection::vec((any::<bool>(), 0u8..80), 0..300)) {
            let mut children = Children::<_, true>::new();
            let mut model = BTreeMap::new();
            for (insert, number) in steps {
                let name = name(number);
                let digits = name.bytes().all(|byte| byte.is_ascii_digit());
                let key = (!digits, if digits { name.len() } else { 0 }, name.clone());
                if insert {
                    prop_assert_eq!(
                        children.insert(name.as_bytes(), number),
                        model.insert(key, number)
                    );
                } else {
                    prop_assert_eq!(children.remove(name.as_bytes()), model.remove(&key));
                }
                prop_assert_eq!(children.len(), model.len());
                let bytes: usize = model.keys().map(|(.., name)| name.len() + 1).sum();
                prop_assert_eq!(children.names_bytes(), bytes);
            }
            let listed: Vec<_> =
                children.iter().map(|(name, child)| (name.bytes().to_vec(), *child)).collect();
            let expected: Vec<_> =
                model.iter().map(|((.., name), child)| (name.clone().into_bytes(), *child)).collect();
            prop_assert_eq!(listed, expected);
            for number in 0..80u8 {
                let name = name(number);
                let of_it = model.iter().find(|((.., other), _)| *other == name);
                prop_assert_eq!(children.get(name.as_bytes()), of_it.map(|(_, child)| child));
            }
        }

        #[test]
        fn unlisted_children_are_found_by_any_name(
            steps in prop::collection::vec((any::<bool>(), "[-12a]{1,2}|[-12a]{14,15}"), 0..300),
        ) {
            let mut children = Children::<_, false>::new();
            let mut model = BTreeMap::new();
            for (number, (insert, name)) in steps.into_iter().enumerate() {
                if insert {
                    let replaced = children.insert(name.as_bytes(), number);
                    prop_assert_eq!(replaced, model.insert(name, number));
                } else {
                    prop_assert_eq!(children.remove(name.as_bytes()), model.remove(&name));
                }
                prop_assert_eq!(children.len(), model.len());
            }
            for (name, number) in &model {
                prop_assert_eq!(children.get(name.as_bytes()), Some(number));
            }
        }
    }
}
