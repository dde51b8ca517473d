//! What a check found, in words.

/// Sentences that are kept of one walk. A store that is wrong in one place is often wrong in many,
/// and nobody reads more.
const SENTENCES_MAX: usize = 256;

/// What is wrong: sentences that name the path, domain or index concerned.
#[derive(Debug, Default)]
pub struct Findings {
    sentences: Vec<String>,
    left_out: usize,
}

impl Findings {
    /// Adds what `sentence` says.
    pub fn add(&mut self, sentence: impl FnOnce() -> String) {
        if self.sentences.len() < SENTENCES_MAX {
            self.sentences.push(sentence());
        } else {
            self.left_out += 1;
        }
    }

    /// Adds those of another walk, all of them.
    pub fn append(&mut self, other: Findings) {
        self.sentences.extend(other.sentences);
        self.left_out += other.left_out;
    }

    /// The sentences.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// How many there are, also of those whose sentence is not kept.
    pub fn len(&self) -> usize {
        self.sentences.len() + self.left_out
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_anybody_reads_is_counted_only() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        (0..SENTENCES_MAX + 5).for_each(|number| findings.add(|| number.to_string()));
        assert_eq!(
            (findings.sentences().len(), findings.len()),
            (SENTENCES_MAX, SENTENCES_MAX + 5)
        );
        let mut all = Findings::default();
        all.append(findings);
        assert_eq!(all.len(), SENTENCES_MAX + 5);
    }
}
