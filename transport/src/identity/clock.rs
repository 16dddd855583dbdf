//! Times as certificates and files have them: whole seconds since 1970.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actorflow_core::{Error, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970; a clock before that reads 0.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The moment `seconds` after 1970.
pub(crate) fn moment(seconds: u64) -> Result<SystemTime> {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or_else(|| Error::invalid(format!("{seconds} seconds after 1970 is no time this system knows")))
}

/// The moment `seconds` after 1970, as a certificate takes it.
pub(crate) fn calendar(seconds: u64) -> Result<OffsetDateTime> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| Error::invalid(format!("{seconds} seconds after 1970 is past the calendar's end")))
}

/// `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    calendar(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("@{seconds}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(1_767_225_600), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_time_past_the_calendar_is_an_error_and_no_panic() {
        assert!(calendar(u64::MAX).is_err());
        assert!(moment(u64::MAX).is_err());
        assert_eq!(rfc3339(u64::MAX), format!("@{}", u64::MAX));
    }
}
