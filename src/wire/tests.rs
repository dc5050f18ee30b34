//! The bytes of every message, and what is not one.

use proptest::prelude::*;

use super::*;
use crate::ids::{ContentHash, HaveKey, KnowledgeProof, TransferId};

/// Bytes written as hexadecimal digits; blanks and `# comments` are skipped.
fn hex(dump: &str) -> Vec<u8> {
    let digits: Vec<u8> = dump
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().bytes())
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `message` has the bytes of `dump`, both ways.
#[track_caller]
fn pin(message: Message, dump: &str) {
    let bytes = hex(dump);
    assert_eq!(encode(&message), bytes);
    assert_eq!(frame_len(bytes[..4].try_into().unwrap()), Ok(bytes.len() - 4));
    assert_eq!(decode(&bytes[4..]), Ok(message));
}

/// The postcard form of transfer id 0x2000_0000_0000_0007: 7 bits a byte, lowest first.
const ID_7: &str = "87 80 80 80 80 80 80 80 20";

fn id_7() -> TransferId {
    TransferId::from_nonce(7)
}

#[test]
fn the_bytes_of_every_message_are_these() {
    let hello = Hello { version: 1, features: 5, max_range_len: 16 << 20, secret_proof: Some([0xaa; 32]) };
    pin(
        Message::Hello(hello),
        &format!(
            "28 00 00 00  # 40 bytes follow
             01           # Hello
             01           # version 1
             05           # features
             80 80 80 08  # 16 MiB
             01           # a proof of the secret follows
             {}",
            "aa".repeat(32)
        ),
    );
    pin(
        Message::Hello(Hello::new(None)),
        "08 00 00 00  # 8 bytes follow
         01           # Hello
         01           # version 1
         00           # no features
         80 80 80 08  # 16 MiB
         00           # no proof",
    );
    pin(
        Message::Have(Have {
            questions: vec![
                HaveQuestion::bare(HaveKey([1; 32])),
                HaveQuestion { key: HaveKey([2; 32]), proof: Some(KnowledgeProof([3; KnowledgeProof::LEN])) },
            ],
        }),
        &format!(
            "54 00 00 00  # 84 bytes follow
             02           # Have
             02           # two questions
             {} 00        # without a proof
             {} 01        # with one
             {}",
            "01".repeat(32),
            "02".repeat(32),
            "03".repeat(16)
        ),
    );
    let partial = HaveAnswer::Partial { ranges: vec![(0, 1), (3, 300)] };
    pin(
        Message::HaveReply(HaveReply {
            answers: vec![HaveAnswer::None, HaveAnswer::Complete, partial, HaveAnswer::WithEnd { size: 16384 }],
            proofs: [4, 5, 6].map(|byte| KnowledgeProof([byte; KnowledgeProof::LEN])).into(),
        }),
        &format!(
            "40 00 00 00  # 64 bytes follow
         03           # HaveReply
         04           # four answers
         00           # none
         01           # complete
         02           # partial
         02           # two ranges
         00 01        # group 0
         03 ac 02     # groups 3 to 299
         03           # content
         80 80 01     # 16 KiB of it
         03           # three proofs
         {}{}{}",
            "04".repeat(16),
            "05".repeat(16),
            "06".repeat(16)
        ),
    );
    let hash = ContentHash::from_bytes([0xcc; 32]);
    let request =
        Request { transfer_id: id_7(), hash, start: 2 * GROUP_LEN, len: GROUP_LEN, weight: 4, prove_size: true };
    pin(
        Message::Request(request),
        &format!(
            "32 00 00 00  # 50 bytes follow
             04           # Request
             {ID_7}
             {}
             80 80 02     # from 32 KiB
             80 80 01     # 16 KiB of it
             04           # weight
             01           # prove the size",
            "cc".repeat(32)
        ),
    );
    pin(
        Message::Found(Found { transfer_id: id_7(), total_len: 300 }),
        &format!(
            "0c 00 00 00  # 12 bytes follow
             05           # Found
             {ID_7}
             ac 02        # 300 bytes in all"
        ),
    );
    pin(Message::NotFound(NotFound { transfer_id: id_7() }), &format!("0a 00 00 00 06 {ID_7}"));
    pin(
        Message::Busy(Busy { transfer_id: id_7(), retry_after_ms: 250 }),
        &format!(
            "0c 00 00 00  # 12 bytes follow
             07           # Busy
             {ID_7}
             fa 01        # 250 ms"
        ),
    );
    pin(
        Message::Refused(Refused { transfer_id: Some(id_7()), reason: RefusedReason::ShuttingDown }),
        &format!(
            "0c 00 00 00  # 12 bytes follow
             08           # Refused
             01 {ID_7}    # this exchange
             04           # shutting down"
        ),
    );
    pin(
        Message::Refused(Refused { transfer_id: None, reason: RefusedReason::Other(200) }),
        "03 00 00 00  # 3 bytes follow
         08           # Refused
         00           # the lane
         c8           # reason 200",
    );
}

#[test]
fn lengths_outside_the_limits_are_refused_before_anything_is_allocated() {
    assert_eq!(frame_len([0; 4]), Err(WireError::Empty));
    assert_eq!(frame_len((MAX_FRAME_LEN as u32).to_le_bytes()), Ok(MAX_FRAME_LEN));
    assert_eq!(frame_len((MAX_FRAME_LEN as u32 + 1).to_le_bytes()), Err(WireError::TooLong(MAX_FRAME_LEN + 1)));
    assert!(frame_len([0xff; 4]).is_err());
    assert_eq!(decode(&[]), Err(WireError::Empty));
    assert_eq!(decode(&vec![1; MAX_FRAME_LEN + 1]), Err(WireError::TooLong(MAX_FRAME_LEN + 1)));
}

#[test]
fn what_is_unknown_surplus_or_cut_short_is_refused() {
    assert_eq!(decode(&[0]), Err(WireError::UnknownNumber(0)));
    assert_eq!(decode(&[9, 1, 2]), Err(WireError::UnknownNumber(9)));
    let mut frame = encode(&Message::NotFound(NotFound { transfer_id: id_7() }))[4..].to_vec();
    frame.push(0);
    assert_eq!(decode(&frame), Err(WireError::Surplus { number: 6, surplus: 1 }));
    frame.truncate(frame.len() - 2);
    assert!(matches!(decode(&frame), Err(WireError::Malformed { number: 6, .. })));
}

#[test]
fn a_number_that_is_no_transfer_id_is_refused() {
    let mut frame = vec![6];
    frame.extend(postcard::to_allocvec(&(1u64 << 61 | 1 << 48)).unwrap());
    assert!(matches!(decode(&frame), Err(WireError::Malformed { number: 6, .. })));
}

#[test]
fn a_claimed_count_is_not_believed() {
    // 2^63 keys, answers or ranges, none of which is there.
    let count = "ff ff ff ff ff ff ff ff 7f";
    for claim in [format!("02 {count}"), format!("03 {count}"), format!("03 01 02 {count}")] {
        assert!(matches!(decode(&hex(&claim)), Err(WireError::Malformed { .. })), "{claim}");
    }
    // One more than allowed, all of which is there.
    let mut answers = vec![3];
    answers.extend(postcard::to_allocvec(&vec![HaveAnswer::None; MAX_HAVE_KEYS + 1]).unwrap());
    assert!(matches!(decode(&answers), Err(WireError::Malformed { .. })));
}

/// The frame of a message that breaks a rule, made without [`encode`], which checks it.
#[track_caller]
fn breaks_a_rule(number: u8, body: &impl serde::Serialize) {
    let mut frame = vec![number];
    frame.extend(postcard::to_allocvec(body).unwrap());
    assert!(matches!(decode(&frame), Err(WireError::Rule { .. })), "{:?}", decode(&frame));
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let hello = Hello::new(None);
    breaks_a_rule(1, &Hello { max_range_len: 0, ..hello.clone() });
    breaks_a_rule(1, &Hello { max_range_len: GROUP_LEN + 1, ..hello });

    breaks_a_rule(2, &Have { questions: vec![] });

    let partial = |ranges: &[(u64, u64)]| HaveAnswer::Partial { ranges: ranges.to_vec() };
    breaks_a_rule(3, &reply(vec![]));
    for wrong in [&[(1, 1)][..], &[(2, 1)], &[(0, 2), (1, 3)], &[(5, 6), (0, 1)], &[(0, MAX_BLOB_GROUPS + 1)]] {
        breaks_a_rule(3, &reply(vec![partial(wrong)]));
    }
    // Each answer is within the limit, the two together are not.
    let many: Vec<_> = (0..200).map(|i| (2 * i, 2 * i + 1)).collect();
    breaks_a_rule(3, &reply(vec![partial(&many), partial(&many)]));
    for size in [0, MAX_BLOB_LEN + 1, u64::MAX] {
        breaks_a_rule(3, &reply(vec![HaveAnswer::WithEnd { size }]));
    }
    let full = HaveAnswer::WithEnd { size: GROUP_LEN };
    let mut answers = vec![full; MAX_HAVE_CONTENT / GROUP_LEN as usize];
    answers.push(HaveAnswer::WithEnd { size: 1 });
    breaks_a_rule(3, &reply(answers));
    // Blobs that come whole count with all that comes of them.
    breaks_a_rule(3, &reply(vec![HaveAnswer::WithEnd { size: MAX_WHOLE_END_LEN }; 3]));
    for proofs in [0, 1, 3] {
        let answers = vec![HaveAnswer::Complete, HaveAnswer::None, partial(&[(0, 1)])];
        breaks_a_rule(3, &HaveReply { answers, proofs: vec![KnowledgeProof([0; KnowledgeProof::LEN]); proofs] });
    }

    let good = Request {
        transfer_id: id_7(),
        hash: ContentHash::EMPTY,
        start: 0,
        len: GROUP_LEN,
        weight: 1,
        prove_size: false,
    };
    for wrong in [
        Request { start: 1, ..good.clone() },
        Request { start: MAX_BLOB_LEN, ..good.clone() },
        Request { start: u64::MAX - GROUP_LEN + 1, ..good.clone() },
        Request { len: 0, ..good.clone() },
        Request { len: GROUP_LEN + 1, ..good.clone() },
        Request { len: MAX_RANGE_LEN + GROUP_LEN, ..good.clone() },
        Request { weight: 0, ..good },
    ] {
        breaks_a_rule(4, &wrong);
    }
    breaks_a_rule(5, &Found { transfer_id: id_7(), total_len: MAX_BLOB_LEN + 1 });
}

/// A reply with some proof for each claim.
fn reply(answers: Vec<HaveAnswer>) -> HaveReply {
    let claims = answers.iter().filter(|answer| **answer != HaveAnswer::None).count();
    let proofs = (0..claims).map(|number| KnowledgeProof([number as u8; KnowledgeProof::LEN])).collect();
    HaveReply { answers, proofs }
}

/// Ranges that keep the rules: each gap and each length at least 1 or 0.
fn ranges(max: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0u64..1000, 1u64..1 << 30), 0..max).prop_map(|steps| {
        let mut at = 0;
        let next = |(gap, len): (u64, u64)| {
            let start = at + gap;
            at = start + len;
            (start, at)
        };
        steps.into_iter().map(next).collect()
    })
}

fn answer() -> impl Strategy<Value = HaveAnswer> {
    prop_oneof![
        Just(HaveAnswer::None),
        Just(HaveAnswer::Complete),
        ranges(16).prop_map(|ranges| HaveAnswer::Partial { ranges }),
        // As many as there may be in one reply of 16.
        (1..=MAX_HAVE_CONTENT as u64 / 16).prop_map(|size| HaveAnswer::WithEnd { size }),
    ]
}

fn question() -> impl Strategy<Value = HaveQuestion> {
    (any::<[u8; 32]>(), any::<Option<[u8; KnowledgeProof::LEN]>>())
        .prop_map(|(key, proof)| HaveQuestion { key: HaveKey(key), proof: proof.map(KnowledgeProof) })
}

fn message() -> impl Strategy<Value = Message> {
    let id = || any::<u64>().prop_map(TransferId::from_nonce);
    let reason = any::<u8>().prop_map(RefusedReason::from_number);
    prop_oneof![
        (any::<u16>(), any::<u64>(), 1u64..1 << 40, any::<Option<[u8; 32]>>()).prop_map(
            |(version, features, groups, secret_proof)| {
                Message::Hello(Hello { version, features, max_range_len: groups * GROUP_LEN, secret_proof })
            }
        ),
        proptest::collection::vec(question(), 1..=MAX_HAVE_KEYS)
            .prop_map(|questions| Message::Have(Have { questions })),
        proptest::collection::vec(answer(), 1..=16).prop_map(|answers| Message::HaveReply(reply(answers))),
        (id(), any::<[u8; 32]>(), 0..MAX_BLOB_GROUPS, 1..=MAX_RANGE_LEN / GROUP_LEN, 1..=u8::MAX, any::<bool>())
            .prop_map(|(transfer_id, hash, start, len, weight, prove_size)| {
                let hash = ContentHash::from_bytes(hash);
                let (start, len) = (start * GROUP_LEN, len * GROUP_LEN);
                Message::Request(Request { transfer_id, hash, start, len, weight, prove_size })
            }),
        (id(), 0..=MAX_BLOB_LEN).prop_map(|(transfer_id, total_len)| Message::Found(Found { transfer_id, total_len })),
        id().prop_map(|transfer_id| Message::NotFound(NotFound { transfer_id })),
        (id(), any::<u32>())
            .prop_map(|(transfer_id, retry_after_ms)| Message::Busy(Busy { transfer_id, retry_after_ms })),
        (proptest::option::of(id()), reason)
            .prop_map(|(transfer_id, reason)| Message::Refused(Refused { transfer_id, reason })),
    ]
}

proptest! {
    #[test]
    fn every_message_round_trips(message in message()) {
        let frame = encode(&message);
        prop_assert_eq!(frame_len(frame[..4].try_into().unwrap()), Ok(frame.len() - 4));
        prop_assert_eq!(decode(&frame[4..]), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(number in 0u8..10, mut body in proptest::collection::vec(any::<u8>(), 0..300)) {
        body.insert(0, number);
        if let Ok(message) = decode(&body) {
            // What was accepted can be said again.
            prop_assert_eq!(decode(&encode(&message)[4..]), Ok(message));
        }
    }

    #[test]
    fn a_message_with_one_byte_changed_never_panics(message in message(), at: prop::sample::Index, to: u8) {
        let mut frame = encode(&message)[4..].to_vec();
        let at = at.index(frame.len());
        frame[at] = to;
        let _ = decode(&frame);
    }
}
