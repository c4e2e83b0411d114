//! From the first message to a supervisor at work, or to a failure that was taken back and told.

use std::os::fd::{AsFd, OwnedFd};

use corten_fs::Lock;
use corten_fs::atomic::Durability;
use corten_sys::{Call, channel, signal};
use corten_types::shim::{Decoder, Event, Failure, Launch, LifeRecord, Request, encode};
use corten_types::{Error, Result};
use rustix::fs::Mode;

use crate::launch::{self, Place};
use crate::life;
use crate::streams::Streams;
use crate::supervisor::{Parts, Supervisor};

const SIGCHLD: i32 = 17;
/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 32 * 1024;

/// The role's whole life; an error means that nobody was there to hear of it, or that cleaning up failed.
pub(crate) fn serve() -> Result<()> {
    corten_sys::exec::close_range(3, u32::MAX).call(|| "close_range(3, ~0)")?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (mut launch, mut descriptors) = receive_launch(&socket)?;
    if descriptors.is_empty() {
        return Err(Error::invalid("no liveness lock came beside the launch"));
    }
    // Held until everything is cleaned up, however that comes: that is what tells everybody else.
    let alive = Lock::from_fd(descriptors.remove(0));
    match begin(&mut launch, descriptors) {
        Ok(parts) => Supervisor::new(launch, parts, socket)?.run(alive),
        Err(error) => fail(&launch, &socket, &error),
    }
}

fn receive_launch(socket: &OwnedFd) -> Result<(Box<Launch>, Vec<OwnedFd>)> {
    let (mut decoder, mut descriptors) = (Decoder::default(), Vec::new());
    let mut buffer = vec![0; READ_SIZE_BYTES];
    loop {
        let (count, beside) = channel::receive(socket, &mut buffer).call(|| "recvmsg(<engine>)")?;
        descriptors.extend(beside);
        decoder.push(&buffer[..count]);
        match decoder.next_message()? {
            Some(Request::Launch(launch)) => return Ok((launch, descriptors)),
            Some(_) => return Err(Error::invalid("something else came before the launch")),
            None if count == 0 => return Err(Error::invalid("the engine went away before the launch")),
            None => {}
        }
    }
}

/// From a launch to a running program.
fn begin(launch: &mut Launch, descriptors: Vec<OwnedFd>) -> Result<Parts> {
    // It fails where the process leads a group already, which serves as well.
    rustix::process::setsid().ok();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    let signals = signal::block_all_and_watch(&[SIGCHLD]).call(|| "signalfd([SIGCHLD])")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::chdir("/").call(|| "chdir(\"/\")")?;
    launch::leave_mount_namespace(launch)?;
    let place = Place::open(launch)?;
    let listener = launch::listen(&place)?;
    let (mut streams, stdio) = Streams::open(launch, &place, descriptors)?;
    launch::prepare(launch, &place)?;
    let mut started = launch::start(launch, stdio)?;
    streams.take_terminal(started.terminal.take(), launch)?;
    Ok(Parts { place, signals, listener, streams, started })
}

/// Records and reports a launch that failed, after everything was taken back.
fn fail(launch: &Launch, socket: &OwnedFd, error: &Error) -> Result<()> {
    let record = LifeRecord {
        state: "created".to_owned(),
        exit_code: error.kind().run_exit_code(),
        error: error.one_line(),
        ..LifeRecord::default()
    };
    launch::remove_files(launch);
    let recorded = match Place::open(launch) {
        Ok(place) if launch.remove_first.is_empty() => life::write(&place.directory, &record, Durability::Volatile),
        _ => Ok(()),
    };
    let cleaned = launch::clean_up(launch);
    let frame = encode(&Event::Failed(Failure::from(error)))?;
    channel::send(socket, &frame, &[]).call(|| "sendmsg(<engine>)")?;
    recorded.and(cleaned)
}
