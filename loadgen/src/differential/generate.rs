//! Random sequences of requests: few names, so that connections collide, and all kinds of malformed requests.

use super::step::{SOCKETS, Step, Tx, Who, op};
use crate::client::Random;

/// Steps of one sequence: few enough for a person to follow, and enough for collisions.
pub const LENGTH: usize = 150;

const PATHS: [&str; 26] = [
    "/t",
    "/t/a",
    "/t/a/b",
    "/t/a/b/c",
    "/t/a/c",
    "/t/b",
    "/t/b/a/c",
    "/t/c",
    "/t/c/c/c/c",
    "/local/domain/1",
    "/local/domain/1/a",
    "/local/domain/1/a/b",
    "/local/domain/2",
    "/local/domain/2/a",
    "/local/domain/2/a/b",
    "/local/domain/3/b",
    "/local/domain/0/a",
    "/local/domain",
    "a",
    "a",
    "a/b",
    "a/b/c",
    "b",
    "b/c",
    "c",
    "c/a",
];

const ODD_PATHS: [&str; 18] = [
    "",
    "/",
    "//",
    "/t/",
    "/t//a",
    "t a",
    "/t/?",
    "/t/\u{e9}",
    "@",
    "@introduceDomain",
    "@releaseDomain",
    "@other",
    "/@a",
    "/t/a@b",
    "a/",
    "/local/domain/",
    "/t/a/./b",
    "../t",
];

const PERMS: [&str; 22] = [
    "n0", "n0", "r0", "b0", "w0", "n1", "n1", "r1", "w1", "b1", "n2", "r2", "b2", "n3", "r3", "w3",
    "n7", "x1", "r", "1r", "r99999", "r1x",
];

const TOKENS: [&str; 5] = ["x", "y", "", "a token", "*"];

/// Operations with their weights in random choices.
const WEIGHTS: [(u32, usize); 20] = [
    (op::READ, 110),
    (op::WRITE, 170),
    (op::MKDIR, 80),
    (op::RM, 70),
    (op::DIRECTORY, 80),
    (op::DIRECTORY_PART, 20),
    (op::GET_PERMS, 60),
    (op::SET_PERMS, 90),
    (op::WATCH, 90),
    (op::UNWATCH, 40),
    (op::START, 35),
    (op::END, 55),
    (op::INTRODUCE, 10),
    (op::RELEASE, 2),
    (op::GET_DOMAIN_PATH, 8),
    (op::IS_DOMAIN_INTRODUCED, 8),
    (op::RESUME, 4),
    (op::SET_TARGET, 6),
    (op::RESET_WATCHES, 6),
    (99, 4),
];

/// A generator of sequences.
pub struct Generator {
    random: Random,
    steps: Vec<Step>,
    /// Transactions that may be open: connection, and step of the START.
    open: Vec<(Who, usize)>,
}

impl Generator {
    /// Returns the sequence of a seed.
    pub fn sequence(seed: u64) -> Vec<Step> {
        let mut generator =
            Generator { random: Random::new(seed), steps: Vec::new(), open: Vec::new() };
        for domid in 1..=2 {
            generator.domain(domid);
        }
        while generator.steps.len() < LENGTH {
            generator.step();
        }
        generator.steps
    }

    /// Builds a domain as a toolstack does.
    fn domain(&mut self, domid: u16) {
        let Some(who) = Who::domain(domid) else { return };
        self.steps.push(Step::Create(who));
        let home = format!("/local/domain/{domid}");
        for (kind, payload) in [
            (op::MKDIR, format!("{home}\0")),
            (op::INTRODUCE, format!("{domid}\x001\x001\0")),
            (op::SET_PERMS, format!("{home}\0n{domid}\0")),
        ] {
            self.request(Who(0), kind, Tx::None, payload.into_bytes());
        }
    }

    fn request(&mut self, who: Who, kind: u32, tx: Tx, payload: Vec<u8>) {
        self.steps.push(Step::Request { who, kind, tx, payload });
    }

    fn step(&mut self) {
        let domid = 1 + u16::try_from(self.random.below(3)).unwrap_or_default();
        match self.random.below(1000) {
            0..6 => return self.domain(domid),
            6..12 => return self.steps.extend(Who::domain(domid).map(Step::Destroy)),
            12..14 => return self.steps.extend(Who::domain(domid).map(Step::Shutdown)),
            14..20 => {
                let who = Who(self.random.below(SOCKETS));
                self.open.retain(|(of, _)| *of != who);
                return self.steps.push(Step::Reconnect(who));
            }
            _ => {}
        }
        let who = Who(self.random.below(SOCKETS + 3));
        let mut kind = self.kind();
        if kind == 99 {
            kind = [15, 16, 20, 27, 28, 1000][self.random.below(6)];
        }
        let tx = self.tx(who, kind);
        let payload = self.payload(kind);
        let mut payload = if self.random.percent(3) { self.spoil(payload) } else { payload };
        if payload.is_empty() && [op::START, op::RESET_WATCHES].contains(&kind) {
            payload.push(0); // oxenstored waits for more input after an empty payload.
        }
        payload.truncate(4096); // A longer one ends the connection.
        if kind == op::START {
            self.open.push((who, self.steps.len()));
        }
        if let (op::END, Tx::Of(step)) = (kind, tx) {
            self.open.retain(|(_, of)| *of != step);
        }
        self.request(who, kind, tx, payload);
    }

    fn kind(&mut self) -> u32 {
        let mut at = self.random.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in WEIGHTS {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        op::READ
    }

    fn tx(&mut self, who: Who, kind: u32) -> Tx {
        let own: Vec<usize> =
            self.open.iter().filter(|(of, _)| *of == who).map(|(_, step)| *step).collect();
        let wanted = if kind == op::END { 95 } else { 60 };
        match own.len() {
            _ if self.random.percent(1) => Tx::Unknown,
            0 => Tx::None,
            count if kind != op::START && self.random.percent(wanted) => {
                Tx::Of(own[self.random.below(count)])
            }
            _ => Tx::None,
        }
    }

    fn path(&mut self) -> String {
        match self.random.below(1000) {
            0..40 => self.random.of(&ODD_PATHS).to_owned(),
            40..44 => {
                let length = [2047, 2048, 2049, 3071, 3072, 3073][self.random.below(6)];
                let mut path = self.random.of(&["/t/", "/local/domain/1/", "a"]).to_owned();
                path.extend(std::iter::repeat_n('l', length - path.len()));
                path
            }
            44..54 => format!("/t/n{}", self.random.below(60)),
            _ => self.random.of(&PATHS).to_owned(),
        }
    }

    fn domid(&mut self) -> String {
        self.random.of(&["1", "1", "2", "2", "3", "3", "0", "7", "32752", "", "x", "-1"]).to_owned()
    }

    fn payload(&mut self, kind: u32) -> Vec<u8> {
        let text = match kind {
            op::WRITE => {
                let mut bytes = (self.path() + "\0").into_bytes();
                bytes.extend(self.value());
                return bytes;
            }
            op::SET_PERMS => {
                // C xenstored loses its whole store with the owner of the root.
                let path = Some(self.path()).filter(|path| path != "/");
                let mut text = path.unwrap_or_else(|| "/t".to_owned()) + "\0";
                for _ in 0..[1, 1, 1, 2, 2, 3, 5, 6, 0][self.random.below(9)] {
                    text += self.random.of(&PERMS);
                    text.push('\0');
                }
                return text.into_bytes();
            }
            op::WATCH | op::UNWATCH => {
                let path = match self.random.below(20) {
                    0..2 => "@releaseDomain".to_owned(),
                    2 => "@introduceDomain".to_owned(),
                    _ => self.path(),
                };
                format!("{path}\0{}\0", self.random.of(&TOKENS))
            }
            op::DIRECTORY_PART => {
                format!("{}\0{}\0", self.path(), self.random.of(&["0", "0", "9999", "x", ""]))
            }
            op::START | op::RESET_WATCHES => "\0".to_owned(),
            op::END => {
                self.random.of(&["T\0", "T\0", "T\0", "T\0", "F\0", "F\0", "t\0"]).to_owned()
            }
            op::INTRODUCE => {
                let port = self.random.of(&["1", "1", "1", "1", "1", "0", "x"]);
                format!("{}\x001\0{port}\0", self.domid())
            }
            op::SET_TARGET => format!("{}\0{}\0", self.domid(), self.domid()),
            op::RELEASE | op::GET_DOMAIN_PATH | op::IS_DOMAIN_INTRODUCED | op::RESUME => {
                self.domid() + "\0"
            }
            _ => self.path() + "\0",
        };
        text.into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(100) {
            0..10 => Vec::new(),
            10..14 => b"with\0nul\0".to_vec(),
            14..20 => {
                let lengths = [1000, 1900, 1990, 2000, 2010, 2020, 2030, 2040, 2048, 2049];
                vec![b'v'; lengths[self.random.below(10)]]
            }
            20..22 => vec![b'v'; 3900],
            _ => format!("{}", self.random.below(5)).into_bytes(),
        }
    }

    /// Makes a payload malformed.
    fn spoil(&mut self, mut payload: Vec<u8>) -> Vec<u8> {
        match self.random.below(6) {
            0 => {
                payload.pop();
            }
            1 => payload.push(0),
            2 => payload.extend(b"more\0"),
            3 => payload.clear(),
            4 => payload.extend(b"more"),
            _ => payload.insert(0, 0),
        }
        payload
    }
}
