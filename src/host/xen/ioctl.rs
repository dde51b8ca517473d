//! How ioctls of the Xen devices are made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The argument of an ioctl; its type says which. All of the Xen devices' ioctls have numbers
/// made by `_IOC(_IOC_NONE, group, number, size)`, whatever they read or write.
pub trait Argument: Copy {
    /// The device's letter.
    const GROUP: u8;
    /// The ioctl's number within the group.
    const NUMBER: u8;
}

/// Makes the ioctl that the argument belongs to. Answers its result, which is not negative, and
/// the argument as the kernel left it.
///
/// # Safety
/// Counts and addresses in the argument must be true, and `fd` must be the device of its group.
pub unsafe fn call<T: Argument>(fd: BorrowedFd<'_>, argument: T) -> io::Result<(u32, T)> {
    // SAFETY: `Call` describes the argument to the kernel by its size; the caller vouches for
    // what it refers to.
    let (result, argument) = unsafe { ioctl(fd.as_fd(), Call(argument))? };
    Ok((result.cast_unsigned(), argument))
}

pub(super) struct Call<T>(pub T);

// SAFETY: the opcode carries the argument's size and the kernel reads and writes nothing else,
// but for what the caller of `call` vouches for. `as_ptr` points to a `T`, which
// `output_from_ptr` reads back.
unsafe impl<T: Argument> Ioctl for Call<T> {
    type Output = (IoctlOutput, T);
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::from_components(Direction::None, T::GROUP, T::NUMBER, size_of::<T>())
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        result: IoctlOutput,
        argument: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        // SAFETY: it is the pointer that `as_ptr` gave.
        Ok((result, unsafe { argument.cast::<T>().read() }))
    }
}
