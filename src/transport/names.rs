//! Host names, looked up without tying up the threads that disks are read on.
//!
//! A lookup is a call that nothing can break off, and where no name server answers it takes half a minute.
//! So each name is looked up once at a time, few at the same time, and what was found last is used while a
//! lookup does not answer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Lookups at the same time: few of the threads that may block.
const MAX_LOOKUPS: usize = 4;

/// How long a lookup is waited for if something was found before.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// How many addresses of one name are used.
const MAX_ADDRESSES: usize = 8;

/// What a lookup found, or the resolver's words.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Looks a name up, together with the port. Blocks.
type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The names that were looked up. There are as many as there are configured peers.
pub(super) struct Names {
    resolve: Arc<Resolve>,
    lookups: Arc<Semaphore>,
    known: Arc<Mutex<HashMap<(String, u16), Known>>>,
}

#[derive(Default)]
struct Known {
    /// What was found last.
    addresses: Vec<SocketAddr>,
    /// Becomes what the lookup under way finds.
    lookup: Option<watch::Receiver<Option<Found>>>,
}

impl Names {
    /// Names as the system knows them.
    pub fn new() -> Self {
        Self::with(Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.take(MAX_ADDRESSES).collect())))
    }

    fn with(resolve: Arc<Resolve>) -> Self {
        Self { resolve, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)), known: Arc::default() }
    }

    /// The addresses of `host`. Dropping the future leaves the lookup to whoever asks next.
    pub async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let (last, mut lookup) = {
            let mut known = self.known.lock();
            let name = known.entry((host.to_owned(), port)).or_default();
            let lookup = name.lookup.get_or_insert_with(|| self.look_up(host.to_owned(), port)).clone();
            (name.addresses.clone(), lookup)
        };
        let patience = if last.is_empty() { Duration::MAX } else { LOOKUP_PATIENCE };
        let found = match timeout(patience, lookup.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone(),
            // It takes too long, or was given up since the node shuts down.
            Ok(Err(_)) | Err(_) => None,
        };
        match found {
            Some(Ok(addresses)) => Ok(addresses),
            _ if !last.is_empty() => Ok(last),
            Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Err(io::Error::other("the lookup was given up")),
        }
    }

    /// Starts a lookup, which goes on by itself.
    fn look_up(&self, host: String, port: u16) -> watch::Receiver<Option<Found>> {
        let (sender, receiver) = watch::channel(None);
        let (resolve, lookups, known) = (self.resolve.clone(), self.lookups.clone(), self.known.clone());
        tokio::spawn(async move {
            let Ok(permit) = lookups.acquire_owned().await else { return };
            let name = (host, port);
            let looked_up = tokio::task::spawn_blocking(move || {
                let found = resolve(&name.0, name.1);
                drop(permit);
                (name, found)
            });
            let Ok((name, found)) = looked_up.await else { return };
            let found = found.map_err(Arc::new);
            if let Some(known) = known.lock().get_mut(&name) {
                known.lookup = None;
                if let Ok(addresses) = &found {
                    known.addresses.clone_from(addresses);
                }
            }
            sender.send_replace(Some(found));
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const ADDRESS: &str = "192.0.2.1:7117";

    #[tokio::test]
    async fn addresses_and_names_of_the_system_are_found_and_others_are_not() {
        let names = Names::new();
        assert_eq!(names.addresses("192.0.2.1", 7117).await.unwrap(), [ADDRESS.parse().unwrap()]);
        assert_eq!(names.addresses("::1", 1).await.unwrap(), ["[::1]:1".parse().unwrap()]);
        assert!(names.addresses("localhost", 1).await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(names.addresses("no such name", 1).await.is_err());
        assert!(names.addresses("no such name", 1).await.is_err(), "it is looked up each time");
    }

    /// As many names and as many who ask as there could be, a name server that does not answer, and few threads.
    #[test]
    fn lookups_without_an_answer_leave_threads_for_others() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(MAX_LOOKUPS + 1).enable_all().build();
        let (begun, (answer, answers)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel::<()>());
        let (count, answers) = (begun.clone(), Mutex::new(answers));
        let silent = move |_: &str, _| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = answers.lock().recv();
            Err(io::Error::other("no answer"))
        };
        let names = Arc::new(Names::with(Arc::new(silent)));
        runtime.unwrap().block_on(async move {
            for i in 0..200 {
                let names = names.clone();
                tokio::spawn(async move { names.addresses(&format!("peer{}", i % 20), 1).await });
            }
            while begun.load(Ordering::SeqCst) < MAX_LOOKUPS {
                tokio::task::yield_now().await;
            }
            assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7, "a thread is free");
            assert_eq!(begun.load(Ordering::SeqCst), MAX_LOOKUPS);
            drop(answer);
            for i in 0..20 {
                assert!(names.addresses(&format!("peer{i}"), 1).await.is_err());
            }
        });
    }

    #[tokio::test]
    async fn what_was_found_last_is_used_while_nobody_answers() {
        let (answer, answers) = mpsc::channel();
        let answers = Mutex::new(answers);
        let resolve = move |_: &str, _| answers.lock().recv().map_err(io::Error::other)?;
        let names = Names::with(Arc::new(resolve));
        let found = vec![ADDRESS.parse().unwrap()];
        answer.send(Ok(found.clone())).unwrap();
        assert_eq!(names.addresses("peer", 7117).await.unwrap(), found);
        assert_eq!(names.addresses("peer", 7117).await.unwrap(), found, "nobody answers");
        answer.send(Err(io::Error::other("no name server"))).unwrap();
        assert_eq!(names.addresses("peer", 7117).await.unwrap(), found, "an error");
        let moved = vec!["192.0.2.2:7117".parse().unwrap()];
        answer.send(Ok(moved.clone())).unwrap();
        assert_eq!(names.addresses("peer", 7117).await.unwrap(), moved);
    }
}
