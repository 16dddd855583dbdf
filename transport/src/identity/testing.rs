//! Identities without files, for tests of whatever needs some: an authority in memory, and members of it.
#![forbid(unsafe_code)]

use actorflow_core::{Error, Result};

use super::authority::{Authority, CERTIFICATE_LIFETIME};
use super::node::Identity;

/// An authority in memory, of the cluster `test`.
///
/// # Errors
/// None but a failing random generator.
pub fn authority() -> Result<Authority> {
    Authority::ephemeral("test")
}

/// Members of one new cluster `test`, by the texts of their subjects: `["client/a", "task/ps/0"]`.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the text that is no subject.
pub fn members<const N: usize>(subjects: [&str; N]) -> Result<[Identity; N]> {
    let authority = authority()?;
    let mut members = Vec::with_capacity(N);
    for subject in subjects {
        members.push(authority.issue(subject.parse()?, CERTIFICATE_LIFETIME)?);
    }
    members
        .try_into()
        .map_err(|_| Error::internal("there are as many members as subjects"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_of_one_cluster() {
        let [a, b] = members(["client/a", "task/ps/0"]).unwrap();
        assert_eq!(a.ca_hash(), b.ca_hash());
        assert_eq!(b.subject().to_string(), "task/ps/0");
        assert!(members(["nobody"]).is_err());
    }
}
