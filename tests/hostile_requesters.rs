//! What a holder does with requesters that break the protocol: it closes their lane, keeps nothing
//! of them, and goes on serving the others.

mod support;

use std::time::Duration;

use byhash::ids::TransferId;
use byhash::transport::memory::MemoryNetwork;
use byhash::transport::{BoxLane, Dialer, read_message, write_message};
use byhash::wire::{Found, Have, HaveAnswer, HaveQuestion, HaveReply, Hello, MAX_FRAME_LEN, Message, Request, encode};
use support::{TestNode, content, node_id};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const GROUP: u64 = 16 * 1024;

/// A holder of one blob of 100 groups, and how to reach it.
async fn holder() -> (MemoryNetwork, TestNode, Request) {
    let network = MemoryNetwork::new();
    let node = TestNode::start(&network, 1, &[]);
    let hash = node.hold(&content(1, 100 * GROUP as usize));
    let transfer_id = TransferId::from_nonce(1);
    let request = Request { transfer_id, hash, start: 0, len: GROUP, weight: 1, prove_size: false };
    (network, node, request)
}

async fn lane(network: &MemoryNetwork) -> BoxLane {
    lane_of(network, 9).await
}

async fn lane_of(network: &MemoryNetwork, requester: u8) -> BoxLane {
    network.dialer(node_id(requester)).dial(&MemoryNetwork::spec(node_id(1))).await.unwrap()
}

/// Whether the holder closes the lane without another byte.
async fn is_closed(lane: &mut BoxLane) -> bool {
    matches!(lane.read(&mut [0; 1]).await, Ok(0) | Err(_))
}

/// Within this long an answer comes for which nobody else is waited.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Whether the honest request of another node is still answered, and at once.
async fn serves(network: &MemoryNetwork, request: &Request) -> bool {
    let start = Instant::now();
    let mut lane = lane_of(network, 8).await;
    write_message(&mut lane, &Message::Request(request.clone())).await.unwrap();
    let is_found = matches!(read_message(&mut lane).await, Ok(Some(Message::Found(_))));
    assert!(start.elapsed() < AT_ONCE, "an answer came after {:?}", start.elapsed());
    is_found
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_breaks_the_protocol_closes_the_lane_and_nothing_else() {
    let (network, node, request) = holder().await;
    let frame = |number: u8, body: &[u8]| {
        let mut frame = u32::try_from(body.len() + 1).unwrap().to_le_bytes().to_vec();
        frame.push(number);
        frame.extend_from_slice(body);
        frame
    };
    let good = encode(&Message::Request(request.clone()));
    let mut surplus = good.clone();
    surplus[..4].copy_from_slice(&u32::try_from(good.len() - 4 + 1).unwrap().to_le_bytes());
    surplus.push(0);
    let beyond = Request { start: 200 * GROUP, ..request.clone() };
    let reply = HaveReply { answers: vec![HaveAnswer::None], proofs: vec![] };
    let found = Found { transfer_id: request.transfer_id, total_len: 1 };
    let hostile: &[(&str, Vec<u8>)] = &[
        ("longer than any frame may be", u32::try_from(MAX_FRAME_LEN + 1).unwrap().to_le_bytes().to_vec()),
        ("4 GiB long", u32::MAX.to_le_bytes().to_vec()),
        ("empty", 0_u32.to_le_bytes().to_vec()),
        ("of an unknown number", frame(200, &[1, 2, 3])),
        ("of number 0", frame(0, &[])),
        ("a question with 2^60 keys", frame(2, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("a request cut short inside its length", frame(4, &good[5..good.len() - 3])),
        ("a request with bytes behind it", surplus),
        ("a range that is not whole groups", {
            let mut odd = good.clone();
            let start = odd.len() - 6;
            odd[start] = 1;
            odd
        }),
        ("a range beyond the end", encode(&Message::Request(beyond))),
        ("an answer that nobody asked for", encode(&Message::HaveReply(reply))),
        ("content that nobody asked for", encode(&Message::Found(found))),
        ("a second greeting", encode(&Message::Hello(Hello::new(None)))),
    ];
    for (count, (what, bytes)) in hostile.iter().enumerate() {
        let mut lane = lane(&network).await;
        lane.write_all(bytes).await.unwrap();
        lane.flush().await.unwrap();
        assert!(is_closed(&mut lane).await, "the lane stayed open after a frame that is {what}");
        assert_eq!(node.metrics.hostile_frames.get(), count as u64 + 1, "{what} was not counted");
        assert!(serves(&network, &request).await, "after {what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_leaves_in_the_middle_is_forgotten() {
    let (network, node, request) = holder().await;
    let whole = Request { len: 100 * GROUP, ..request.clone() };
    for _ in 0..100 {
        let mut lane = lane(&network).await;
        let frame = encode(&Message::Request(whole.clone()));
        lane.write_all(&frame[..7]).await.unwrap();
        drop(lane);
        let mut lane = self::lane(&network).await;
        write_message(&mut lane, &Message::Request(whole.clone())).await.unwrap();
        assert!(matches!(read_message(&mut lane).await, Ok(Some(Message::Found(_)))));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(network.open_lanes(), 0, "lanes of requesters that left are still open");
    assert!(serves(&network, &request).await);
    assert!(node.metrics.hostile_frames.get() <= 100);
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_takes_nothing_does_not_keep_others_waiting() {
    let (network, _node, request) = holder().await;
    let whole = Request { len: 100 * GROUP, ..request.clone() };
    let mut stuck = Vec::new();
    for _ in 0..16 {
        let mut lane = lane(&network).await;
        write_message(&mut lane, &Message::Request(whole.clone())).await.unwrap();
        stuck.push(lane);
    }
    assert!(serves(&network, &request).await);
}

#[tokio::test(start_paused = true)]
async fn twenty_that_take_nothing_do_not_keep_others_from_being_served() {
    let (network, _node, request) = holder().await;
    let whole = Request { len: 100 * GROUP, ..request.clone() };
    let mut stuck = Vec::new();
    for requester in 20..40 {
        for _ in 0..16 {
            let mut lane = lane_of(&network, requester).await;
            write_message(&mut lane, &Message::Request(whole.clone())).await.unwrap();
            stuck.push(lane);
        }
        assert!(serves(&network, &request).await, "beside {} that take nothing", requester - 19);
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_that_nobody_uses_keep_nobody_out() {
    let (network, _node, request) = holder().await;
    let mut idle = Vec::new();
    for requester in 20..40 {
        for _ in 0..64 {
            idle.push(lane_of(&network, requester).await);
        }
        assert!(serves(&network, &request).await, "beside {} idle lanes", idle.len());
    }
    // Whose lane was closed opens another.
    let mut lane = lane_of(&network, 20).await;
    write_message(&mut lane, &Message::Request(request)).await.unwrap();
    assert!(matches!(read_message(&mut lane).await, Ok(Some(Message::Found(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_question_says_nothing_about_what_was_not_asked() {
    let (network, node, request) = holder().await;
    let other = node.hold(&content(2, 5));
    let mut lane = lane(&network).await;
    let keys = [request.hash.have_key(), byhash::ids::ContentHash::of(b"absent").have_key(), other.have_key()];
    let questions = keys.map(HaveQuestion::bare).into();
    write_message(&mut lane, &Message::Have(Have { questions })).await.unwrap();
    let answers = vec![HaveAnswer::Complete, HaveAnswer::None, HaveAnswer::Complete];
    // It proves to know what it says to have.
    let proofs = [request.hash, other].map(|hash| hash.holder_proof(lane.binding())).into();
    let expected = HaveReply { answers, proofs };
    assert_eq!(read_message(&mut lane).await.unwrap(), Some(Message::HaveReply(expected)));
    // The hash itself, asked about as if it were its key, is not known.
    let unblinded = byhash::ids::HaveKey(*request.hash.as_bytes());
    write_message(&mut lane, &Message::Have(Have { questions: vec![HaveQuestion::bare(unblinded)] })).await.unwrap();
    let nothing = HaveReply { answers: vec![HaveAnswer::None], proofs: vec![] };
    assert_eq!(read_message(&mut lane).await.unwrap(), Some(Message::HaveReply(nothing)));
}
