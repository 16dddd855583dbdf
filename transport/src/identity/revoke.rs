//! Taking certificates back: the authority's side of [`Revocations`].
#![forbid(unsafe_code)]

use std::time::SystemTime;

use actorflow_core::{Code, Error, Result};

use super::audit::Event;
use super::authority::Authority;
use super::certificate::PeerIdentity;
use super::clock::seconds;
use super::crypto::is_hex;
use super::revocations::{Revocations, SERIAL_DIGITS};
use super::store::IssuedRecord;
use super::subject::Subject;

impl Authority {
    /// Revokes the certificate with a serial number, or all that a subject has now; returns the serial numbers. Tokens for
    /// exactly that subject are withdrawn with them. A new token lets the subject join again.
    ///
    /// Members refuse the certificates once they have the new list: see [`revocations`](Self::revocations).
    ///
    /// # Errors
    /// `NOT_FOUND` if no certificate that has not expired is meant, `INVALID_ARGUMENT` if the text is neither a serial number
    /// nor a subject.
    pub fn revoke(&self, serial_or_subject: &str) -> Result<Vec<String>> {
        let now = seconds(SystemTime::now());
        let by_serial = is_hex(serial_or_subject, SERIAL_DIGITS);
        if !by_serial {
            serial_or_subject.parse::<Subject>()?;
        }
        let revoked = self.store().change(now, |state| {
            let meant = |serial: &str, issued: &IssuedRecord| match by_serial {
                true => serial == serial_or_subject,
                false => issued.subject == serial_or_subject,
            };
            let serials: Vec<(String, u64)> = state
                .issued
                .iter()
                .filter(|(serial, issued)| meant(serial, issued))
                .map(|(serial, issued)| (serial.clone(), issued.not_after))
                .collect();
            let tokens = state.tokens.len();
            state.tokens.retain(|token| token.subject != serial_or_subject);
            if serials.is_empty() && tokens == state.tokens.len() {
                return Err(Error::not_found(format!(
                    "no certificate or token of {serial_or_subject} is valid now; the audit log says what was issued"
                )));
            }
            state.revoked.extend(serials.iter().cloned());
            Ok(serials.into_iter().map(|(serial, _)| serial).collect::<Vec<_>>())
        })?;
        let mut line = Event::done("revoke", now);
        match by_serial {
            true => line.serial = Some(serial_or_subject),
            false => line.subject = Some(serial_or_subject.to_owned()),
        }
        self.audit().record(&line)?;
        Ok(revoked)
    }

    /// The certificates that are revoked and have not expired, for
    /// [`Identity::with_revocations`](super::Identity::with_revocations).
    ///
    /// # Errors
    /// Those of reading the state.
    pub fn revocations(&self) -> Result<Revocations> {
        Ok(self.store().read()?.revocations())
    }

    /// The revocations, for a member whose certificate a handshake has verified.
    pub(crate) fn revocations_for(&self, holder: &PeerIdentity) -> Result<Revocations> {
        let revocations = self.revocations()?;
        match revocations.contains(&holder.serial) {
            true => Err(revoked(&holder.subject)),
            false => Ok(revocations),
        }
    }
}

/// The answer to a member that was revoked.
pub(crate) fn revoked(subject: &Subject) -> Error {
    Error::new(
        Code::PermissionDenied,
        format!("the certificate of {subject} was revoked; join again with a new token, if you are given one"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{CERTIFICATE_LIFETIME, TokenSpec};
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn revoking_a_subject_revokes_all_it_has_and_withdraws_its_tokens() {
        let authority = Authority::ephemeral("c").unwrap();
        let of = |text: &str| authority.issue(subject(text), CERTIFICATE_LIFETIME).unwrap();
        let (one, two, other) = (of("task/ps/0"), of("task/ps/0"), of("task/ps/1"));
        let spec = TokenSpec {
            subject: subject("task/ps/0").into(),
            ttl: Duration::from_secs(60),
            uses: 1,
        };
        let token = authority.token(&spec).unwrap();
        assert_eq!(authority.revoke("task/ps/0").unwrap().len(), 2);
        let list = authority.revocations().unwrap();
        assert!(list.contains(one.serial()) && list.contains(two.serial()) && !list.contains(other.serial()));
        let now = SystemTime::now();
        assert!(authority.redeem(token.secret(), &subject("task/ps/0"), now).is_err());
    }

    #[test]
    fn revoking_what_is_unknown_is_an_error_that_changes_nothing() {
        let authority = Authority::ephemeral("c").unwrap();
        assert_eq!(authority.revoke("task/ps/0").unwrap_err().code(), Code::NotFound);
        assert_eq!(authority.revoke(&"0".repeat(32)).unwrap_err().code(), Code::NotFound);
        assert_eq!(
            authority.revoke("everything").unwrap_err().code(),
            Code::InvalidArgument
        );
        assert!(authority.revocations().unwrap().is_empty());
    }
}
