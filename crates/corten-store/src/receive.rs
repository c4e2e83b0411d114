//! Images as they come over the network: every layer is hashed, written, decompressed, hashed again and unpacked while it
//! arrives, several beside each other.
//!
//! A layer that several ask for at once, in this process or others, is received by one of them: the others wait and find
//! it there. One that broke off is continued where it stopped, by whoever asks next, in another run of the program too.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use corten_types::image_spec::Descriptor;
use corten_types::{Context, Digest, Error, ErrorKind, Result};

use crate::add::{self, NewImageRequest};
use crate::blob;
use crate::growing::{Growing, LayerBytes};
use crate::image::Target;
use crate::import::unpack::{Unpacker, with_unpacker};
use crate::layer::{Layers, decode};
use crate::lease::Lease;
use crate::lock::NamedLock;
use crate::partial::PartialIngest;
use crate::store::Store;

/// Receives the parts of images. May be shared by threads.
pub struct Receiver<'r> {
    store: &'r Store,
    lease: &'r Lease,
    unpacker: &'r Unpacker<'r>,
}

/// What [`Receiver::layer`] and [`Receiver::blob`] found.
#[derive(Debug)]
pub enum Turn<'r> {
    /// The store has it: nothing to do.
    Present,
    /// It is this caller's to bring in.
    Fetch(Box<Incoming<'r>>),
}

/// A blob on its way in. Dropped unfinished, what came so far stays for a day: the next who asks for it goes on there.
#[derive(Debug)]
pub struct Incoming<'r> {
    partial: Option<PartialIngest>,
    growing: Arc<Growing>,
    lease: &'r Lease,
    digest: Digest,
    announced: u64,
    _turn: NamedLock,
}

impl Store {
    /// Runs `work` with threads beside it that unpack what it receives; all that it receives or finds is kept until
    /// `work` returns. `owner` says in words who receives.
    pub fn receive<T>(&self, owner: &str, work: impl FnOnce(&Receiver<'_>) -> Result<T>) -> Result<T> {
        let lease = self.lease(owner)?;
        let layers = Layers::new(self.disk(), self.database(), decode::Limits::default())?.kept_by(&lease);
        with_unpacker(&layers, |unpacker| work(&Receiver { store: self, lease: &lease, unpacker }))
    }
}

impl<'r> Receiver<'r> {
    /// What keeps the parts until they are an image.
    pub fn lease(&self) -> &'r Lease {
        self.lease
    }

    /// A layer that will be unpacked here. Waits while somebody else receives the same one: a thread that holds an
    /// [`Incoming`] asks for no other before it has finished it.
    pub fn layer(&self, descriptor: &Descriptor) -> Result<Turn<'r>> {
        let turn = self.blob(descriptor)?;
        let bytes = match &turn {
            Turn::Present => LayerBytes::Whole(Arc::new(blob::open(self.store.disk(), &descriptor.digest)?)),
            Turn::Fetch(incoming) => LayerBytes::Growing(Arc::clone(&incoming.growing)),
        };
        self.unpacker.start_again(&descriptor.digest, bytes);
        Ok(turn)
    }

    /// Any other blob: a configuration, a part of an artifact, a layer that is not unpacked here. Waits as
    /// [`Receiver::layer`] does.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Turn<'r>> {
        let digest = descriptor.digest;
        if self.lease.keep(&digest)? {
            return Ok(Turn::Present);
        }
        let locks = self.store.disk().part("locks")?;
        let turn = NamedLock::acquire(locks.as_fd(), &format!("fetch-{}", digest.hex()))?;
        if self.lease.keep(&digest)? {
            return Ok(Turn::Present);
        }
        let mut partial =
            PartialIngest::open(self.store.disk(), &format!("blob {digest}"))?.with_algorithm(digest.algorithm());
        if partial.size() > descriptor.size {
            partial.truncate(0)?;
        }
        let growing = Growing::new(partial.file(), partial.size());
        Ok(Turn::Fetch(Box::new(Incoming {
            partial: Some(partial),
            growing,
            lease: self.lease,
            digest,
            announced: descriptor.size,
            _turn: turn,
        })))
    }

    /// A small blob that is here already.
    pub fn put(&self, expected: &Digest, content: &[u8]) -> Result<()> {
        self.store.put_blob(self.lease, expected, content)
    }

    /// Makes an image of what was received; every blob that the documents name must be here. Its references point to it
    /// from now on.
    pub fn commit(&self, request: &NewImageRequest<'_>) -> Result<Target> {
        add::add(self.store, self.lease, self.unpacker, request)
    }
}

impl Incoming<'_> {
    /// Bytes that are here: where the transfer goes on.
    pub fn offset(&self) -> u64 {
        self.partial.as_ref().map_or(0, PartialIngest::size)
    }

    /// Bytes that the descriptor announced.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// Appends bytes; more than were announced are refused.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(partial) = &mut self.partial else {
            return Err(Error::new(ErrorKind::Internal, "bytes for a blob that is finished"));
        };
        if partial.size() + bytes.len() as u64 > self.announced {
            let message = format!("blob {} is longer than the announced {} bytes", self.digest, self.announced);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        partial.append(bytes)?;
        self.growing.grown(partial.size());
        Ok(())
    }

    /// Throws away what came so far and starts anew: the server cannot go on from there.
    pub fn restart(self) -> Result<()> {
        let mut this = self;
        if let Some(partial) = this.partial.take() {
            partial.discard();
        }
        Ok(())
    }

    /// Verifies and names the blob. What is not what was announced is thrown away.
    pub fn finish(mut self) -> Result<()> {
        let Some(partial) = self.partial.take() else { return Ok(()) };
        if partial.size() < self.announced {
            let (size, announced) = (partial.size(), self.announced);
            let message = format!("blob {} ended after {size} of {announced} bytes", self.digest);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let staged = partial.finish()?;
        if staged.digest() == self.digest {
            self.growing.end(true);
        }
        staged.name(self.lease, &self.digest).context(|| format!("cannot store blob {}", self.digest))
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.growing.end(false);
    }
}
