//! Comparison of the destination with the source, and with the observations of each guest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::guest::Belief;
use crate::client::{Client, Stage, words};
use crate::scenario::boot::remains;
use crate::trouble::Result;
use crate::wrong;

/// Number of domains compared concurrently.
const SIDE_BY_SIDE: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(300);

/// Path, value and permissions of each node.
type Nodes = BTreeMap<String, (Vec<u8>, Vec<u8>)>;

/// Totals of the compared objects.
#[derive(Default)]
pub struct Seen {
    pub nodes: Cell<u64>,
    pub watches: Cell<u64>,
}

/// Compares domains at the source, which has released them, with those at the destination. Only the domains' own `data`
/// may differ, which is compared with the guests' observations.
pub fn compare(source: &Path, destination: &Path, beliefs: Vec<Belief>) -> Result<Rc<Seen>> {
    let (stage, seen) = (Stage::new()?, Rc::new(Seen::default()));
    let beliefs = Rc::new(RefCell::new(VecDeque::from(beliefs)));
    for _ in 0..SIDE_BY_SIDE {
        let (source, destination) = (stage.connect(source)?, stage.connect(destination)?);
        let (beliefs, seen) = (Rc::clone(&beliefs), Rc::clone(&seen));
        stage.spawn(async move {
            while let Some(belief) = { beliefs.borrow_mut().pop_front() } {
                one(&source, &destination, &belief, &seen).await?;
            }
            Ok(())
        });
    }
    stage.run(TIMEOUT)?;
    Ok(seen)
}

async fn one(source: &Client, destination: &Client, belief: &Belief, seen: &Seen) -> Result<()> {
    let domid = belief.domid;
    let (mut before, mut after) = (nodes(source, domid).await?, nodes(destination, domid).await?);
    seen.nodes.set(seen.nodes.get() + after.len() as u64);
    for (name, value) in &belief.nodes {
        let path = format!("/local/domain/{domid}/{name}");
        before.remove(&path);
        match after.remove(&path) {
            Some((found, _)) if found == value.as_bytes() => {}
            found => wrong!("domain {domid} expects {name} to be {value:?}, but it is {found:?}"),
        }
    }
    if before != after {
        let differs = |path: &&String| before.get(*path) != after.get(*path);
        let paths: BTreeSet<_> = before.keys().chain(after.keys()).filter(differs).collect();
        wrong!("the move changed domain {domid} at {paths:?}");
    }
    let mut tokens = tokens(destination, domid).await?;
    let mut believed = belief.tokens.clone();
    tokens.sort();
    believed.sort();
    if tokens != believed {
        wrong!("domain {domid} expects the watches {believed:?}, but has {tokens:?}");
    }
    seen.watches.set(seen.watches.get() + tokens.len() as u64);
    Ok(())
}

/// Returns all nodes of a domain in any partition.
async fn nodes(client: &Client, domid: Domid) -> Result<Nodes> {
    let (mut todo, mut nodes) = (remains(domid), Nodes::new());
    while let Some(path) = todo.pop() {
        let name = words(&[&path]);
        let asked = [Operation::Read, Operation::GetPerms, Operation::Directory]
            .map(|kind| (kind, name.clone()));
        let mut replies = client.several(0, &asked).await?.into_iter();
        let mut reply = || replies.next().unwrap_or_else(|| Err("no reply".into()));
        match (reply(), reply(), reply()) {
            (Ok(value), Ok(perms), Ok(children)) => {
                let names = children.split(|&byte| byte == 0).filter(|name| !name.is_empty());
                todo.extend(names.map(|name| format!("{path}/{}", String::from_utf8_lossy(name))));
                nodes.insert(path, (value, perms));
            }
            (Err(errno), ..) if errno == "ENOENT" => {}
            other => wrong!("unexpected reply for {path}: {other:?}"),
        }
    }
    Ok(nodes)
}

/// Returns the tokens of a domain's watches, which fit in one reply.
async fn tokens(client: &Client, domid: Domid) -> Result<Vec<String>> {
    let request = format!("{domid}\0{}", 0);
    let reply = client.must(Operation::GetDomainWatches, 0, request.as_bytes()).await?;
    let text = String::from_utf8_lossy(&reply);
    // The generation, then path and token of each.
    let strings: Vec<&str> = text.split_terminator('\0').skip(1).collect();
    Ok(strings.chunks(2).filter_map(|watch| watch.get(1)).map(|&token| token.into()).collect())
}
