//! A run of a sequence on several daemons in lock-step, and its differences.

use std::collections::{BTreeMap, HashMap};
use std::{fmt, io};

use super::ended::{At, Ends};
use super::history::History;
use super::known::{Case, Known, explanation, parts, parts_unasked};
use super::line::Reply;
use super::step::{Step, op};
use super::world::{Outcome, World};
use crate::target::Target;

/// An unexplained difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The step that showed the difference.
    pub at: usize,
    /// The kind of the difference; a shorter sequence shows the same difference if the kind is equal.
    pub kind: String,
    /// Full description in prose.
    pub text: String,
}

/// The numbers of known differences and comparisons.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Number of occurrences by the difference's name.
    pub known: HashMap<&'static str, u64>,
    /// Number of steps.
    pub steps: u64,
    /// Number of steps with compared outcomes, by peer.
    pub compared: [u64; 2],
    /// Number of sequences that a peer left early because its store diverged, by peer.
    pub left: [u64; 2],
    /// Crashes of a peer, by peer.
    pub ended: [Ends; 2],
    /// In a survey: unknown differences by kind, with an example and their number.
    pub survey: Option<BTreeMap<String, (String, u64)>>,
}

/// The daemons: ours first, then the peers.
pub struct Trial {
    /// The daemons with their environments.
    pub worlds: Vec<World>,
    /// Whether a peer has left the sequence, because its store diverged or it ended.
    pub gone: Vec<bool>,
    /// The seed of the sequence.
    pub seed: u64,
    /// A known difference that is treated as unknown.
    pub forgotten: Option<&'static Known>,
}

impl Trial {
    /// Runs a sequence to its end or to the first difference. A daemon that times out or violates the protocol is a
    /// difference; a peer that crashes leaves the sequence.
    pub fn run(&mut self, steps: &[Step], tally: &mut Tally) -> Option<Difference> {
        let mut history = History::new();
        for (at, step) in steps.iter().enumerate() {
            if !self.worlds[0].can(step) {
                continue;
            }
            let outcomes = match self.outcomes(at, step, tally) {
                Ok(outcomes) => outcomes,
                Err(silence) => return Some(silence),
            };
            tally.steps += 1;
            let is = history.of(step, self.worlds[0].again);
            for peer in 1..outcomes.len() {
                let Some(ours) = &outcomes[0] else { continue };
                let Some(theirs) = &outcomes[peer] else {
                    if !self.gone[peer] && parts_unasked(step, ours) {
                        self.leave(peer, tally);
                    }
                    continue;
                };
                tally.compared[peer - 1] += 1;
                let target = self.worlds[peer].target.clone();
                let mut case = Case::new(&target, step, ours, theirs, &is);
                case.hidden = self.worlds[peer].hides(&case.only_theirs());
                match explanation(&case, self.forgotten) {
                    _ if case.is_equal() => {}
                    Some(known) => *tally.known.entry(known.name).or_default() += 1,
                    None => {
                        let found = difference(at, step, &case);
                        let Some(survey) = &mut tally.survey else { return Some(found) };
                        let example = || (format!("sequence {}, {}", self.seed, found.text), 0);
                        survey.entry(found.kind).or_insert_with(example).1 += 1;
                    }
                }
                if parts(&case) {
                    self.leave(peer, tally);
                }
            }
            let mut replies = outcomes.iter().flatten().flat_map(|outcome| &outcome.reply);
            if replies.any(Reply::is_full) {
                history.refuse(step);
            }
            if let Some(ours) = &outcomes[0] {
                history.follow(at, step, ours.reply.as_ref());
            }
        }
        None
    }

    /// Takes a peer out of the sequence because its store diverged.
    fn leave(&mut self, peer: usize, tally: &mut Tally) {
        self.gone[peer] = true;
        tally.left[peer - 1] += 1;
    }

    /// Takes a peer out of the sequence if this error is due to its crash, and counts the crash. Returns `false` for
    /// a living daemon, and always for ours, which must not crash.
    pub fn lose(
        &mut self,
        number: usize,
        during: impl fmt::Display,
        error: &io::Error,
        tally: &mut Tally,
    ) -> bool {
        let world = &mut self.worlds[number];
        let peer = number.checked_sub(1);
        let (Some(peer), Some(status)) = (peer, world.ending(error)) else { return false };
        tally.ended[peer].count(self.seed, during, status, &world.log());
        self.gone[number] = true;
        true
    }

    /// Returns the difference of a daemon that hangs, or of our own if it has ended.
    fn silence(&self, at: At<'_>, number: usize, error: &io::Error) -> Difference {
        let World { target, .. } = &self.worlds[number];
        let kind = format!("{target} does not reply: {:?}", error.kind());
        let text = format!("{at}\n  {target}: {error}\n{}", self.worlds[number].log());
        Difference { at: at.0, kind, text }
    }

    /// Returns whether a step is sent to a daemon. Peers do not get requests at which they would crash, hang or empty
    /// their store (docs/COMPATIBILITY.md, c-stale-errno, o-rm-root, o-release-control, o-empty, o-introduce-port).
    fn takes_part(&self, number: usize, step: &Step) -> bool {
        let dangerous = match step {
            Step::Request { who, kind, payload, .. } => match self.worlds[number].target {
                Target::C => {
                    let special = payload.starts_with(b"@introduceDomain\0")
                        || payload.starts_with(b"@releaseDomain\0");
                    let refused = payload.starts_with(b"@") && (who.is_guest() || !special);
                    is_node_request(*kind) && !is_one_string(payload)
                        || *kind == op::SET_PERMS && refused
                }
                Target::OCaml => {
                    let fatal = [(op::RM, &b"/\0"[..]), (op::RELEASE, b"0\0")];
                    let deaf = *kind == op::INTRODUCE && !payload.ends_with(b"\x001\0");
                    payload.is_empty() || deaf || fatal.contains(&(*kind, payload))
                }
                _ => false,
            },
            _ => false,
        };
        !self.gone[number] && !dangerous
    }

    fn outcomes(
        &mut self,
        at: usize,
        step: &Step,
        tally: &mut Tally,
    ) -> Result<Vec<Option<Outcome>>, Difference> {
        let count = self.worlds.len();
        let mut outcomes: Vec<Option<Outcome>> =
            (0..count).map(|who| self.takes_part(who, step).then(Outcome::default)).collect();
        let mut each = |what: &dyn Fn(&mut World, &mut Outcome) -> io::Result<()>| {
            for (number, outcome) in outcomes.iter_mut().enumerate() {
                let Some(done) = outcome else { continue };
                let Err(error) = what(&mut self.worlds[number], done) else { continue };
                if !self.lose(number, At(at, step), &error, tally) {
                    return Err(self.silence(At(at, step), number, &error));
                }
                *outcome = None;
            }
            Ok(())
        };
        // Each phase starts on all daemons before the harness waits for any of them.
        each(&|world, _| world.begin_step(step))?;
        each(&|world, done| world.end_step(at, step).map(|reply| done.reply = reply))?;
        each(&|world, _| world.begin_barrier())?;
        each(&|world, done| world.end_barrier().map(|events| done.events = events))?;
        Ok(outcomes)
    }
}

/// Returns whether an operation's payload is only a path.
fn is_node_request(kind: u32) -> bool {
    [op::DIRECTORY, op::READ, op::GET_PERMS, op::MKDIR, op::RM].contains(&kind)
}

fn is_one_string(payload: &[u8]) -> bool {
    payload.ends_with(b"\0") && payload.iter().filter(|&&byte| byte == 0).count() == 1
}

fn difference(at: usize, step: &Step, case: &Case<'_>) -> Difference {
    let (kind, text) = case.describe();
    Difference { at, kind, text: format!("step {at}: {step}\n{text}") }
}
