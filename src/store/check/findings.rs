//! The findings of a consistency check, as sentences.

/// Maximum number of sentences kept per walk. One fault often shows in many places, and an operator would not read more
/// sentences.
const SENTENCES_MAX: usize = 256;

/// Findings: sentences that name the path, domain or index concerned.
#[derive(Debug, Default)]
pub struct Findings {
    sentences: Vec<String>,
    left_out: usize,
}

impl Findings {
    /// Adds a finding; `sentence` is called only if the finding is kept.
    pub fn add(&mut self, sentence: impl FnOnce() -> String) {
        if self.sentences.len() < SENTENCES_MAX {
            self.sentences.push(sentence());
        } else {
            self.left_out += 1;
        }
    }

    /// Adds all findings of another walk.
    pub fn append(&mut self, other: Findings) {
        self.sentences.extend(other.sentences);
        self.left_out += other.left_out;
    }

    /// Returns the kept sentences.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// Returns the number of findings, including those whose sentence is not kept.
    pub fn len(&self) -> usize {
        self.sentences.len() + self.left_out
    }

    /// Returns whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_limit_are_only_counted() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        (0..SENTENCES_MAX + 5).for_each(|number| findings.add(|| number.to_string()));
        assert_eq!(
            (findings.sentences().len(), findings.len()),
            (SENTENCES_MAX, SENTENCES_MAX + 5)
        );
        assert!(!findings.is_empty());
        let mut all = Findings::default();
        all.append(findings);
        assert_eq!(all.len(), SENTENCES_MAX + 5);
    }
}
