//! Who may connect to this node.

use std::collections::HashSet;

use super::NetworkSecret;
use super::secret::{EXPORTER_LEN, Role};
use crate::ids::PeerId;
use crate::wire::RefusedReason;

/// Who may connect to this node. The default lets in nobody.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Keys that may connect.
    pub allow: HashSet<PeerId>,
    /// Whoever proves to know this may connect.
    pub secret: Option<NetworkSecret>,
    /// Any key may connect.
    pub open: bool,
}

impl Admission {
    /// Whether anybody at all may connect.
    pub fn admits_anyone(&self) -> bool {
        self.open || self.secret.is_some() || !self.allow.is_empty()
    }

    /// Whether `proof` shows that the dialler of the lane with this exporter value knows our secret.
    pub(super) fn is_proven(&self, exporter: &[u8; EXPORTER_LEN], proof: Option<&[u8; 32]>) -> bool {
        match (&self.secret, proof) {
            (Some(secret), Some(proof)) => secret.verify(exporter, Role::Dialler, proof),
            _ => false,
        }
    }

    /// Lets `peer` in or says why not. `offered`: it sent a proof; `proven`: a valid one.
    pub(super) fn judge(&self, peer: &PeerId, offered: bool, proven: bool) -> Result<(), RefusedReason> {
        if proven || self.open || self.allow.contains(peer) {
            Ok(())
        } else if offered && self.secret.is_some() {
            Err(RefusedReason::WrongSecret)
        } else {
            Err(RefusedReason::NotAllowed)
        }
    }
}
