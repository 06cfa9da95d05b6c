//! The way from clients to a node, which can be cut: a TCP proxy. Its address stays when the node comes back elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The proxy.
pub struct Cable {
    /// Where clients connect.
    pub address: SocketAddr,
    node: Arc<Mutex<SocketAddr>>,
    cuts: watch::Sender<usize>,
    open: Arc<AtomicUsize>,
}

impl Cable {
    /// Listens, and connects whoever comes with the node.
    pub async fn to(node: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let node = Arc::new(Mutex::new(node));
        let open = Arc::new(AtomicUsize::new(0));
        let (cuts, cut) = watch::channel(0);
        let (to, count) = (Arc::clone(&node), Arc::clone(&open));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (to, mut cut, count) =
                    (*to.lock().unwrap_or_else(PoisonError::into_inner), cut.clone(), Arc::clone(&count));
                cut.mark_unchanged();
                tokio::spawn(async move {
                    // Where nobody listens, the client's connection ends.
                    let Ok(mut node) = TcpStream::connect(to).await else { return };
                    if client.set_nodelay(true).and_then(|()| node.set_nodelay(true)).is_err() {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut node) => {}
                        _ = cut.changed() => {}
                    }
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { address, node, cuts, open })
    }

    /// The node is elsewhere now.
    pub fn move_to(&self, node: SocketAddr) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// Cuts every connection that is open; returns how many that were. Others can be made at once.
    pub fn cut(&self) -> usize {
        let open = self.open.load(Ordering::Relaxed);
        self.cuts.send_modify(|cuts| *cuts += 1);
        open
    }
}
