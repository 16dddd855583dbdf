//! Being told to end.

use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Calls `told` with the name of every SIGINT and SIGTERM from now on, which then no longer end the process by
/// themselves.
///
/// # Errors
/// What the system says.
pub(crate) fn on_end<T: Send + 'static>(told: Sender<T>, of: fn(&'static str) -> T) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("actorflow-signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                if told.send(of(name)).is_err() {
                    break;
                }
            }
        })?;
    Ok(())
}
