use super::*;

#[test]
fn stale_epoch_is_retried_up_to_a_hundred_times() {
    let tries_until = |done_after: u32, is_stale: bool| {
        let mut tries = 0;
        let result = try_often(
            || {
                tries += 1;
                if tries > done_after { Ok(()) } else { Err(()) }
            },
            |()| is_stale,
        );
        (tries, result)
    };
    assert_eq!(tries_until(3, true), (4, Ok(())));
    assert_eq!(tries_until(99, true), (100, Ok(())));
    assert_eq!(tries_until(100, true), (100, Err(())));
    assert_eq!(tries_until(3, false), (1, Err(())));
}
