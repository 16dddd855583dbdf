//! x
use crate::{measure::Settings, report::Report};
pub fn run(_: &Settings, _: &mut Report) -> actorflow::Result<()> {
    Ok(())
}
