//! Sequences and ids that are checked while they are decoded, before anything is allocated.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Accepts at most `MAX` elements. The count that the peer claims is neither believed nor
/// allocated: the vector grows with the elements that are really there, and stops at `MAX`.
struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == MAX {
                return Err(A::Error::custom("too many elements"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Decodes a sequence of at most `MAX` elements.
pub(super) fn bounded_vec<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    d.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

/// A [`TransferId`](crate::ids::TransferId) as a `u64`, refused if it has not the layout of one.
pub(super) mod transfer_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::TransferId;

    pub(crate) fn serialize<S: Serializer>(id: &TransferId, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(id.raw())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TransferId, D::Error> {
        TransferId::from_raw(u64::deserialize(d)?).ok_or_else(|| D::Error::custom("not a transfer id"))
    }
}

/// The same for a transfer id that may be missing.
pub(super) mod optional_transfer_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::TransferId;

    pub(crate) fn serialize<S: Serializer>(id: &Option<TransferId>, s: S) -> Result<S::Ok, S::Error> {
        id.map(TransferId::raw).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<TransferId>, D::Error> {
        let not_one = || D::Error::custom("not a transfer id");
        Option::<u64>::deserialize(d)?.map(|raw| TransferId::from_raw(raw).ok_or_else(not_one)).transpose()
    }
}
