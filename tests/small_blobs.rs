//! The ends of blobs, which are all of small ones, come with the answer to the question who has them: to whoever has
//! proved to know their hashes.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use byhash::buffers::{BUDGET_LEN, Buffer, SEGMENT_LEN};
use byhash::holders::Finding;
use byhash::ids::{BlobRange, ContentHash, KnowledgeProof, LaneBinding};
use byhash::transfer::{BlobSource, BlobState, FetchError, Priority};
use byhash::transport::memory::{Fault, MemoryNetwork};
use byhash::transport::{Acceptor, BoxLane, Dialer, read_message, write_message};
use byhash::wire::{Have, HaveAnswer, HaveQuestion, HaveReply, MAX_HAVE_CONTENT, MAX_WHOLE_END_LEN, Message, end_len};
use support::hostile::{self, VICES, Vice};
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

const GROUP: usize = 16 * 1024;

/// Bytes up to which a blob comes whole.
const WHOLE: usize = MAX_WHOLE_END_LEN as usize;

#[tokio::test(start_paused = true)]
async fn a_blob_of_few_groups_comes_with_the_answer_and_of_a_larger_one_its_end_does() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let mut came = 0;
    for size in [1, 4096, GROUP, GROUP + 1, 50_000, WHOLE, WHOLE + 1, 100_000] {
        let is_small = size <= WHOLE;
        let bytes = content(size as u64, size);
        let hash = holder.hold(&bytes);
        let exchanges = node.metrics.exchanges_started.get();
        assert_eq!(node.engine.size(hash).await.unwrap(), size as u64);
        assert_eq!(node.metrics.exchanges_started.get(), exchanges, "the size of {size} bytes came with the answer");
        assert!(node.read(hash, 1 << 20).await.unwrap() == bytes, "{size}");
        came += 1;
        assert_eq!(node.metrics.came_with_answer.get(), came, "{size}");
        assert_eq!(holder.metrics.served_with_answer.get(), came, "{size}");
        assert_eq!(node.metrics.exchanges_started.get() == exchanges, is_small, "{size}");
        node.engine.fetch(hash, |_, _| {}).await.unwrap();
        assert_eq!(node.engine.state(&hash), BlobState::Complete, "{size}");
        assert_eq!(node.metrics.exchanges_started.get() == exchanges, is_small, "{size}, once it is in the store");
    }
    node.assert_at_rest().await;
    holder.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn many_asked_for_at_once_come_with_few_answers() {
    const COUNT: usize = 300;
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let blobs: Vec<_> = (0..COUNT as u64).map(|seed| content(seed, 1000)).collect();
    let hashes: Vec<_> = blobs.iter().map(|bytes| holder.hold(bytes)).collect();
    let mut reads = tokio::task::JoinSet::new();
    for (hash, bytes) in hashes.iter().copied().zip(blobs) {
        let engine = node.engine.clone();
        reads.spawn(async move {
            let size = engine.size(hash).await.unwrap();
            let read = engine.open(hash, size).read(BlobRange::new(0, size), Priority::Foreground).await;
            assert!(read.unwrap() == bytes);
        });
    }
    reads.join_all().await;
    assert!(node.metrics.have_queries.get() < COUNT as u64 / 2, "{} messages", node.metrics.have_queries.get());
    // Of those in one message, no more come along than fit.
    assert!(node.metrics.came_with_answer.get() >= (MAX_HAVE_CONTENT / 1000) as u64);
    node.engine.land(None).await;
    assert!(hashes.iter().all(|hash| node.engine.state(hash) == BlobState::Complete), "each is in the store");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_holders_one_sends_it() {
    let network = MemoryNetwork::new();
    let holders: Vec<_> = (1..=4).map(|number| TestNode::start(&network, number, &[])).collect();
    let node = TestNode::start(&network, 9, &[1, 2, 3, 4]);
    for seed in 0..20 {
        let bytes = content(seed, 3000);
        let hash = ContentHash::of(&bytes);
        for holder in &holders {
            holder.hold(&bytes);
        }
        assert!(node.read(hash, 4096).await.unwrap() == bytes);
    }
    let served: u64 = holders.iter().map(|holder| holder.metrics.served_bytes.get()).sum();
    assert_eq!((node.metrics.came_with_answer.get(), node.metrics.exchanges_started.get(), served), (20, 0, 20 * 3000));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_asked_to_send_it_and_says_nothing_costs_little() {
    let network = MemoryNetwork::new();
    let (first, second) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[]));
    let node = TestNode::start(&network, 9, &[1, 2]);
    let hold = |seed| {
        let bytes = content(seed, 3000);
        first.hold(&bytes);
        second.hold(&bytes)
    };
    // Both are connected after this.
    node.read(hold(0), 4096).await.unwrap();
    for number in [1, 2] {
        network.set_fault(node_id(number), Fault::BlackHole);
        for seed in 0..5 {
            let hash = hold(u64::from(number) * 10 + seed);
            let start = Instant::now();
            assert_eq!(node.read(hash, 4096).await.unwrap().len(), 3000);
            assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
        }
        network.set_fault(node_id(number), Fault::None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_slow_link_long_is_not_asked_for_again_meanwhile() {
    let network = MemoryNetwork::new();
    let holders = [1, 2].map(|number| TestNode::start(&network, number, &[]));
    // 16 Mbit/s, of which each has half: the blobs take 33 ms each.
    let dialer = SlowDialer::new(network.dialer(node_id(9)), Link::new(Duration::from_millis(1), 2_000_000));
    let node = TestNode::with_dialer(&network, 9, &[1, 2], 1 << 30, Arc::new(dialer));
    let hold = |seed, size| {
        let bytes = content(seed, size);
        holders[0].hold(&bytes);
        holders[1].hold(&bytes)
    };
    // How fast they are is known after this.
    node.engine.fetch(hold(0, 4 << 20), |_, _| {}).await.unwrap();
    let exchanges = node.metrics.exchanges_started.get();
    for seed in 1..20 {
        assert_eq!(node.read(hold(seed, WHOLE), WHOLE as u64).await.unwrap().len(), WHOLE);
    }
    assert_eq!(node.metrics.exchanges_started.get(), exchanges);
    assert_eq!(node.metrics.came_with_answer.get(), 20);
}

/// A lane of node 8 to node 1.
async fn lane(network: &MemoryNetwork) -> BoxLane {
    network.dialer(node_id(8)).dial(&MemoryNetwork::spec(node_id(1))).await.unwrap()
}

async fn ask(lane: &mut BoxLane, questions: Vec<HaveQuestion>) -> Vec<HaveAnswer> {
    write_message(lane, &Message::Have(Have { questions })).await.unwrap();
    match read_message(lane).await.unwrap() {
        Some(Message::HaveReply(reply)) => reply.answers,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_only_heard_the_question_gets_no_content() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    for size in [5000, 100_000] {
        let bytes = content(1, size);
        let hash = holder.hold(&bytes);
        let served = holder.metrics.served_bytes.get();
        let (mut lane, other) = (self::lane(&network).await, self::lane(&network).await);
        let proofs = [
            None,
            // Heard on another lane.
            Some(hash.knowledge_proof(other.binding())),
            Some(hash.knowledge_proof(&LaneBinding([9; 32]))),
            // Made from what the question shows.
            Some(ContentHash::from_bytes(hash.have_key().0).knowledge_proof(lane.binding())),
            Some(KnowledgeProof([0; KnowledgeProof::LEN])),
        ];
        for proof in proofs {
            let answers = ask(&mut lane, vec![HaveQuestion { key: hash.have_key(), proof }]).await;
            assert_eq!(answers, [HaveAnswer::Complete], "{proof:?}");
        }
        assert_eq!(holder.metrics.served_bytes.get(), served);
        let proof = Some(hash.knowledge_proof(lane.binding()));
        let answers = ask(&mut lane, vec![HaveQuestion { key: hash.have_key(), proof }]).await;
        assert_eq!(answers, [HaveAnswer::WithEnd { size: size as u64 }]);
        let mut sent = vec![0; end_len(size as u64)];
        lane.read_exact(&mut sent).await.unwrap();
        let last = (size - 1) / GROUP * GROUP;
        assert!(sent.ends_with(&bytes[last..]));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_goes_with_an_answer_than_may() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let sizes = [WHOLE, WHOLE, WHOLE, GROUP, 2 * GROUP, WHOLE, 100];
    let goes = [true, true, false, true, false, false, true];
    let blobs: Vec<_> = (0..).zip(sizes).map(|(seed, size)| content(seed, size)).collect();
    let hashes: Vec<_> = blobs.iter().map(|bytes| holder.hold(bytes)).collect();
    let mut lane = lane(&network).await;
    let binding = *lane.binding();
    let question =
        |hash: &ContentHash| HaveQuestion { key: hash.have_key(), proof: Some(hash.knowledge_proof(&binding)) };
    let answers = ask(&mut lane, hashes.iter().map(question).collect()).await;
    for ((answer, bytes), goes) in answers.iter().zip(&blobs).zip(goes) {
        let size = bytes.len() as u64;
        assert_eq!(*answer, if goes { HaveAnswer::WithEnd { size } } else { HaveAnswer::Complete });
        if goes {
            let mut sent = vec![0; end_len(size)];
            lane.read_exact(&mut sent).await.unwrap();
            assert!(sent.ends_with(bytes));
        }
    }
    // The lane is in order, and all that was taken has been given back.
    assert_eq!(ask(&mut lane, vec![HaveQuestion::bare(hashes[0].have_key())]).await, [HaveAnswer::Complete]);
    drop(lane);
    holder.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_one_sends_with_its_answer_the_bytes_are_right_or_another_s() {
    for &vice in VICES {
        for size in [1, 5000, GROUP, GROUP + 1, WHOLE, WHOLE + 1, 300_000, 3_000_000] {
            let network = MemoryNetwork::new();
            let bytes = content(7, size);
            hostile::start(&network, 1, &bytes, vice);
            let node = TestNode::start(&network, 3, &[1]);
            let hash = ContentHash::of(&bytes);
            match node.read_each_within(hash, 1 << 20, Duration::from_secs(32)).await {
                Some(Ok(read)) => assert!(read == bytes, "{vice:?}: wrong bytes came through"),
                Some(Err(error)) => {
                    let wrong = matches!(vice, Vice::FlipsByte(_) | Vice::ClaimsLess(_)) && (2..=GROUP).contains(&size)
                        || vice == Vice::FlipsEnd(0);
                    assert!(!wrong || error == FetchError::WrongBytes, "{vice:?}, {size}: {error:?}");
                }
                None => panic!("{vice:?}, {size}: no answer"),
            }
            node.assert_at_rest().await;

            let honest = TestNode::start(&network, 2, &[]);
            let node = TestNode::start(&network, 4, &[1, 2]);
            honest.hold(&bytes);
            let start = Instant::now();
            let read = node.read(hash, 1 << 20).await;
            assert!(read.as_ref().is_ok_and(|read| *read == bytes), "{vice:?}, {size}: {read:?}");
            assert!(start.elapsed() < Duration::from_secs(10), "{vice:?}, {size} took {:?}", start.elapsed());
            if vice == Vice::FlipsByte(0) && size <= GROUP || vice == Vice::FlipsEnd(0) {
                assert_eq!(node.metrics.wrong_bytes.get(), 1, "it is not asked again");
            }
            node.assert_at_rest().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_is_not_taken_for_something_else() {
    let network = MemoryNetwork::new();
    let bytes = content(7, 5000);
    hostile::start(&network, 1, &bytes, Vice::Trickles(1000));
    let honest = TestNode::start(&network, 2, &[]);
    let node = TestNode::start(&network, 3, &[1, 2]);
    assert!(node.read(honest.hold(&bytes), 4096).await.unwrap() == bytes);
    tokio::time::sleep(Duration::from_secs(10)).await;
    for seed in 0..5 {
        let bytes = content(seed, 3000);
        assert!(node.read(honest.hold(&bytes), 4096).await.unwrap() == bytes);
    }
    assert_eq!(node.holders.snapshots()[0].wrong_replies, 0);
}

/// Takes all of the node's budget.
async fn all_memory_of(node: &TestNode) -> Vec<Buffer> {
    let mut held = Vec::new();
    for _ in 0..BUDGET_LEN / SEGMENT_LEN {
        held.push(node.budget.buffer(SEGMENT_LEN, Priority::Foreground).await);
    }
    held
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_answers_takes_memory_of_the_budget() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(1, 40_000);
    let hash = holder.hold(&bytes);
    let mut held = all_memory_of(&node).await;
    let mut size = Box::pin(node.engine.size(hash));
    assert!(timeout(Duration::from_millis(150), &mut size).await.is_err(), "there is no memory for it");
    held.pop();
    assert_eq!(size.await.unwrap(), 40_000);
    assert_eq!(node.metrics.came_with_answer.get(), 1);
    drop(held);
    assert!(node.read(hash, 1 << 20).await.unwrap() == bytes);
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn without_memory_for_what_comes_with_an_answer_the_answer_counts() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(1, 40_000);
    let hash = holder.hold(&bytes);
    let held = all_memory_of(&node).await;
    let mut findings = node.holders.survey(hash, Some(0));
    assert!(matches!(findings.recv().await, Some(Finding::Has(0, HaveAnswer::Complete))));
    drop(held);
    // What came was not taken for something else, nor the lane given up.
    network.set_fault(node_id(1), Fault::Refuse);
    let other = holder.hold(&content(2, 40_000));
    let mut findings = node.holders.survey(other, Some(0));
    assert!(matches!(findings.recv().await, Some(Finding::WithEnd(0, end)) if end.size == 40_000));
    network.set_fault(node_id(1), Fault::None);
    assert!(node.read(hash, 1 << 20).await.unwrap() == bytes);
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_asked_for_is_no_answer() {
    let network = MemoryNetwork::new();
    let bytes = content(7, 5000);
    hostile::start(&network, 1, &bytes, Vice::SendsUnasked);
    let node = TestNode::start(&network, 3, &[1]);
    let mut findings = node.holders.survey(ContentHash::of(&bytes), None);
    assert!(matches!(findings.recv().await, Some(Finding::Unreachable(0))));
    let mut findings = node.holders.survey(ContentHash::of(&bytes), Some(0));
    assert!(
        matches!(findings.recv().await, Some(Finding::WithEnd(0, end)) if end.size == 5000 && end.content == bytes)
    );
}

#[tokio::test(start_paused = true)]
async fn who_claims_to_have_what_it_does_not_know_is_not_told_what_it_is() {
    let network = MemoryNetwork::new();
    let mut acceptor = network.listen(node_id(1));
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let liar = tokio::spawn(async move {
        let mut lanes = tokio::task::JoinSet::new();
        while let Ok(mut lane) = acceptor.accept().await {
            let requests = counted.clone();
            lanes.spawn(async move {
                while let Ok(Some(message)) = read_message(&mut lane).await {
                    let Message::Have(have) = message else {
                        requests.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let answers = vec![HaveAnswer::Complete; have.questions.len()];
                    // It has nothing to prove it by but what the asker has proved.
                    let nothing = KnowledgeProof([0; KnowledgeProof::LEN]);
                    let proofs = have.questions.iter().map(|asked| asked.proof.unwrap_or(nothing)).collect();
                    let _ = write_message(&mut lane, &Message::HaveReply(HaveReply { answers, proofs })).await;
                }
            });
        }
    });
    let holder = TestNode::start(&network, 2, &[]);
    let node = TestNode::start(&network, 3, &[1, 2]);
    for number in 0..20 {
        let bytes = content(number, 100 + 20_000 * number as usize);
        let hash = holder.hold(&bytes);
        assert!(node.read(hash, u64::MAX).await.unwrap() == bytes, "the other holder is used");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0, "a request has the hash in it");
    liar.abort();
}
