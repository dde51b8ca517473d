//! Valgrind client requests, which are a few instructions without effect when the program does not run under
//! valgrind. For benches/holds.rs, with the feature `holds`, on amd64; the tests need no feature.
//!
//! The numbers and instructions are those of valgrind.h and callgrind.h, version 3.15 and later. The definitions are
//! copied here because the crates that provide them (valgrind-requests 1.2, which is gungraun's, and crabgrind 0.4) run
//! bindgen at build time, and that loads libclang: 157 MB of Debian packages and 11 more crates, for four requests.

use std::arch::asm;
use std::ffi::CStr;

const PRINTF_VALIST_BY_REF: u64 = 0x1403;
const GDB_MONITOR_COMMAND: u64 = 0x1202;
const START_INSTRUMENTATION: u64 = 0x4354_0004;
const STOP_INSTRUMENTATION: u64 = 0x4354_0005;

/// Starts callgrind's instruction counting.
pub fn start_counting() {
    request(START_INSTRUMENTATION, c"");
}

/// Stops callgrind's instruction counting, which speeds the program up.
pub fn stop_counting() {
    request(STOP_INSTRUMENTATION, c"");
}

/// Writes into valgrind's log. Text without a newline at the end is held back until the next text's newline.
///
/// # Panics
/// If the text contains a `%`, for which valgrind would read an argument.
pub fn print(text: &CStr) {
    assert!(!text.to_bytes().contains(&b'%'), "valgrind would read an argument");
    request(PRINTF_VALIST_BY_REF, text);
}

/// Makes callgrind log its status, including the current thread and the counts of each thread so far.
pub fn print_counts() {
    request(GDB_MONITOR_COMMAND, c"status internal");
}

/// The value in the rotated register: any rotation that is not undone would change it.
const ROTATED: u64 = 0x0123_4567_89ab_cdef;

/// Makes one of the four requests; the two without a text ignore it. Returns valgrind's reply, which is 0 without
/// valgrind, and the rotated register, which is always [`ROTATED`].
fn request(number: u64, text: &CStr) -> [u64; 2] {
    // The argument list (a va_list) of a text without arguments.
    let no_arguments = [0u64; 3];
    let arguments =
        [number, text.as_ptr().addr() as u64, no_arguments.as_ptr().addr() as u64, 0, 0, 0];
    let (mut reply, mut rotated) = (0u64, ROTATED);
    // SAFETY: four rotations by 128 bits in total and an exchange of a register with itself change nothing but flags.
    // valgrind recognises the sequence and reads `arguments`, the text up to its NUL, and nothing of `no_arguments`, as
    // no text has a `%`. All these buffers live until here, and asm is assumed to read any memory. The sequence writes
    // nothing except rdx, the reply.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") arguments.as_ptr(), inout("rdx") reply, inout("rdi") rotated,
        );
    }
    [reply, rotated]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Request that returns how many valgrinds the program runs under.
    const RUNNING_ON_VALGRIND: u64 = 0x1001;
    /// A request unknown to every version of valgrind.
    const UNKNOWN: u64 = 0x1fff;

    #[test]
    fn requests_without_valgrind_have_no_effect() {
        let numbers = [
            RUNNING_ON_VALGRIND,
            UNKNOWN,
            PRINTF_VALIST_BY_REF,
            GDB_MONITOR_COMMAND,
            START_INSTRUMENTATION,
            STOP_INSTRUMENTATION,
        ];
        for number in numbers {
            assert_eq!(request(number, c"text\n"), [0, ROTATED], "request {number:#x}");
        }
    }

    /// Runs in the child process of the next test.
    #[test]
    #[ignore = "child process of the next test, run under valgrind"]
    fn child_makes_valgrind_requests() {
        assert_eq!(request(RUNNING_ON_VALGRIND, c""), [1, ROTATED]);
        assert_eq!(request(UNKNOWN, c""), [0, ROTATED]);
        start_counting();
        print(c"a text of the program\n");
        print_counts();
        stop_counting();
    }

    #[test]
    fn valgrind_log_has_texts_and_counts() {
        let ran = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--instr-atstart=no"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "host::valgrind::tests::child_makes_valgrind_requests", "--ignored"])
            .output();
        let Ok(output) = ran else {
            assert!(std::env::var_os("CI").is_none(), "valgrind is not installed: {ran:?}");
            return eprintln!("skipped: valgrind is not installed");
        };
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}{log}", String::from_utf8_lossy(&output.stdout));
        assert!(log.lines().any(|line| line.ends_with("a text of the program")), "{log}");
        assert!(log.lines().any(|line| line.starts_with("current-tid: ")), "{log}");
        // Only the instructions between start and stop are counted, not those of the whole program.
        let collected = log.lines().find_map(|line| line.split_once("Collected : "));
        let instructions: u64 = collected.map_or(0, |(_, count)| count.trim().parse().unwrap());
        assert!((20..20_000).contains(&instructions), "{log}");
    }

    #[test]
    #[should_panic(expected = "valgrind would read an argument")]
    fn text_with_a_format_argument_panics() {
        print(c"%s");
    }
}
