//! Ioctls of the Xen devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// An ioctl's argument, whose type determines the ioctl. All ioctl numbers of the Xen devices are `_IOC(_IOC_NONE,
/// group, number, size)`, regardless of what they read or write.
pub trait Argument: Copy {
    /// The device's ioctl group letter.
    const GROUP: u8;
    /// The ioctl's number within the group.
    const NUMBER: u8;
}

/// Makes the ioctl of this argument. Returns the ioctl's result, which is not negative, and the argument as modified by
/// the kernel.
///
/// # Safety
/// Counts and addresses in the argument must be valid, and `fd` must be the device of its group.
pub unsafe fn call<T: Argument>(fd: BorrowedFd<'_>, argument: T) -> io::Result<(u32, T)> {
    // SAFETY: `Call` describes the argument to the kernel by its size; the caller vouches for the memory to which it
    // refers.
    let (result, argument) = unsafe { ioctl(fd.as_fd(), Call(argument))? };
    Ok((result.cast_unsigned(), argument))
}

pub(super) struct Call<T>(pub T);

// SAFETY: the opcode carries the argument's size, and the kernel accesses nothing else except what the caller of
// `call` vouches for. `as_ptr` points to a `T`, which `output_from_ptr` reads back.
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
        // SAFETY: this is the pointer returned by `as_ptr`.
        Ok((result, unsafe { argument.cast::<T>().read() }))
    }
}
