//! What a program that runs under valgrind can ask of it; without valgrind, a few instructions that
//! do nothing. For benches/holds.rs, with the feature `holds`, on amd64.
//!
//! Numbers and instructions are those of valgrind.h and callgrind.h, version 3.15 and later.

use std::arch::asm;
use std::ffi::CStr;

const PRINTF_VALIST_BY_REF: u64 = 0x1403;
const GDB_MONITOR_COMMAND: u64 = 0x1202;
const START_INSTRUMENTATION: u64 = 0x4354_0004;
const STOP_INSTRUMENTATION: u64 = 0x4354_0005;

/// callgrind counts from here on.
pub fn start_counting() {
    request(START_INSTRUMENTATION, c"");
}

/// callgrind counts no more, and the program is faster.
pub fn stop_counting() {
    request(STOP_INSTRUMENTATION, c"");
}

/// Writes into valgrind's log. `text` ends with a newline, or waits for the next one's.
///
/// # Panics
/// If there is a `%` in the text, which valgrind would read an argument for.
pub fn print(text: &CStr) {
    assert!(!text.to_bytes().contains(&b'%'), "an argument is asked for");
    request(PRINTF_VALIST_BY_REF, text);
}

/// callgrind writes into the log, among others, which thread this is and what it has counted so far
/// in each.
pub fn print_counts() {
    request(GDB_MONITOR_COMMAND, c"status internal");
}

/// One of the four above; the two that take no text ignore it.
fn request(number: u64, text: &CStr) {
    // What stands for the arguments (a va_list) of a text that asks for none.
    let no_arguments = [0u64; 3];
    let arguments =
        [number, text.as_ptr().addr() as u64, no_arguments.as_ptr().addr() as u64, 0, 0, 0];
    // SAFETY: four rotations by 128 bits in all and an exchange of a register with itself change
    // nothing but flags. valgrind knows the sequence, reads `arguments`, the text up to its NUL and
    // nothing of `no_arguments`, as no text has a `%`: all live until here, and asm is taken to read
    // any memory. It writes nothing of ours but rdx, its answer.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") arguments.as_ptr(), inout("rdx") 0u64 => _, inout("rdi") 0u64 => _,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_without_valgrind() {
        start_counting();
        print(c"text\n");
        print_counts();
        stop_counting();
    }

    #[test]
    #[should_panic(expected = "an argument is asked for")]
    fn a_text_cannot_ask_for_arguments() {
        print(c"%s");
    }
}
