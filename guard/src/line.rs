//! The line between collector and guard.
//!
//! Two ends of a SEQPACKET socket: one message is one packet, descriptors travel beside it
//! (SCM_RIGHTS), and each side sees the other end. Events are not sent: an eventfd announces them,
//! and the collector requests them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{GuardError, text};
use crate::guard::Guard;
use crate::protocol::{MESSAGE_BYTES, Reply, Request};

/// Descriptors beside one message: rows, frames, and three arrays for Python.
const DESCRIPTORS: usize = 8;

/// The collector's end.
#[derive(Debug)]
pub struct Line {
    to: To,
    buffer: Box<[u8; MESSAGE_BYTES]>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum To {
    /// A guard in this process, for tests of the guard. Messages are still encoded and decoded.
    Here(Guard),
    /// A guard in another process.
    There { socket: OwnedFd, wake: EventFd },
}

/// The guard's end.
#[derive(Debug)]
pub(crate) struct Served {
    socket: OwnedFd,
    wake: EventFd,
    buffer: Box<[u8; MESSAGE_BYTES]>,
}

fn buffer() -> Box<[u8; MESSAGE_BYTES]> {
    Box::new([0; MESSAGE_BYTES])
}

/// The two ends of a new line.
pub(crate) fn pair() -> Result<(Line, Served), GuardError> {
    let failed = |errno: Errno| GuardError::Split { step: text("make a socket"), os: errno.into() };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
    let same = wake
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| GuardError::Split { step: text("share a descriptor"), os: error.into() })?;
    // SAFETY: the descriptor is a duplicate of an eventfd and has no other owner.
    let same = unsafe { EventFd::from_owned_fd(same) };
    let line = Line { to: To::There { socket: ours, wake }, buffer: buffer() };
    Ok((line, Served { socket: theirs, wake: same, buffer: buffer() }))
}

impl Line {
    /// A line to a guard in this process.
    pub fn new(guard: Guard) -> Self {
        Self { to: To::Here(guard), buffer: buffer() }
    }

    /// Sends a request and waits for the answer and its descriptors.
    ///
    /// # Errors
    /// The guard's refusal; [`GuardError::Gone`] if there is no guard any more;
    /// [`GuardError::Message`] if a message does not fit.
    pub fn call(&mut self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), GuardError> {
        let (reply, descriptors) = match &mut self.to {
            To::Here(guard) => {
                let bytes = encode(request, &mut self.buffer[..])?;
                let (reply, descriptors) = guard.handle(decode(bytes)?);
                (decode(encode(&reply, &mut self.buffer[..])?)?, descriptors)
            }
            To::There { socket, wake } => {
                if *request == Request::Events {
                    // Later events wake the collector again. An empty counter is as good.
                    _ = wake.read();
                }
                send(socket.as_fd(), encode(request, &mut self.buffer[..])?, &[])?;
                match receive(socket.as_fd(), &mut self.buffer[..])? {
                    Some((bytes, descriptors)) => (decode(&self.buffer[..bytes])?, descriptors),
                    None => return Err(GuardError::Gone),
                }
            }
        };
        match reply {
            Reply::Refused(error) => Err(error),
            reply => Ok((reply, descriptors)),
        }
    }

    /// Readable if [`Request::Events`] has events; `None` before anything is attached.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        match &self.to {
            To::Here(guard) => guard.events(),
            To::There { wake, .. } => Some(wake.as_fd()),
        }
    }

    /// Hung up if there is no guard any more.
    pub fn guard(&self) -> Option<BorrowedFd<'_>> {
        match &self.to {
            To::Here(_) => None,
            To::There { socket, .. } => Some(socket.as_fd()),
        }
    }
}

impl Served {
    /// Readable if there is a request, or if the collector has ended.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Signals the collector that there are events.
    pub(crate) fn wake(&self) {
        // Only a full counter refuses, and that is awake.
        _ = self.wake.write(1);
    }

    /// The next request; `None` if the collector has ended.
    pub(crate) fn request(&mut self) -> Result<Option<Request>, GuardError> {
        // The guard accepts no descriptors from the collector: they are closed here.
        match receive(self.socket.as_fd(), &mut self.buffer[..])? {
            Some((bytes, _)) => decode(&self.buffer[..bytes]).map(Some),
            None => Ok(None),
        }
    }

    /// Sends the reply with its descriptors.
    pub(crate) fn reply(&mut self, reply: &Reply, descriptors: &[OwnedFd]) -> Result<(), GuardError> {
        let bytes = encode(reply, &mut self.buffer[..])?;
        send(self.socket.as_fd(), bytes, descriptors)
    }
}

pub(crate) fn encode<'b, T: Serialize>(message: &T, buffer: &'b mut [u8]) -> Result<&'b [u8], GuardError> {
    postcard::to_slice(message, buffer).map(|bytes| &*bytes).map_err(|_| GuardError::Message)
}

pub(crate) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, GuardError> {
    postcard::from_bytes(bytes).map_err(|_| GuardError::Message)
}

fn broken(errno: Errno) -> GuardError {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET => GuardError::Gone,
        errno => GuardError::Split { step: text("talk to the other process"), os: errno.into() },
    }
}

pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<(), GuardError> {
    let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [std::io::IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(broken(errno)),
        }
    }
}

/// Length and descriptors of the next message; `None` at the end.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<(usize, Vec<OwnedFd>)>, GuardError> {
    let mut space = nix::cmsg_space!([i32; DESCRIPTORS]);
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(broken(errno)),
        }
    };
    let mut descriptors = Vec::new();
    for control in message.cmsgs().map_err(broken)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process; they have no
            // other owner.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(GuardError::Message);
    }
    // No message of edgelat's is empty.
    Ok((message.bytes > 0).then_some((message.bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        EVENTS, Event, FOUND, Found, IMAGES, ImageId, MappedImage, PATH_BYTES, Path, PlanId, PlanSite, SITES,
        Told,
    };

    #[test]
    fn the_largest_messages_fit_their_buffer() {
        let site = PlanSite {
            offset: u64::MAX,
            cookie: u64::MAX,
            exit: true,
            stepped: true,
            code: [0xff; 4],
            code_len: 4,
            before: 0,
        };
        let sites = Request::PlanSites {
            plan: PlanId(u32::MAX),
            image: ImageId(u32::MAX),
            sites: heapless::Vec::from_iter(std::iter::repeat_n(site, SITES)),
        };
        let image = MappedImage {
            index: u32::MAX,
            path: Path::try_from("x".repeat(PATH_BYTES).as_str()).unwrap(),
            cut: true,
            deleted: true,
            executable: true,
            writable: true,
            file: (u32::MAX, u32::MAX, u64::MAX),
        };
        let text = || text("x".repeat(1000));
        let error = GuardError::NotPermitted { action: text(), os: crate::error::Os(i32::MIN), need: text() };
        let event = Told { plan: PlanId(u32::MAX), event: Event::NotCovered { pid: i32::MIN, error } };
        let events = Reply::Events {
            events: heapless::Vec::from_iter(std::iter::repeat_n(event, EVENTS)),
            more: true,
        };
        let found = Found { pid: i32::MAX, start: u64::MAX, word: image.path.clone() };
        let found = Reply::Processes {
            processes: heapless::Vec::from_iter(std::iter::repeat_n(found, FOUND)),
            more: true,
        };
        let images = Reply::Images {
            images: heapless::Vec::from_iter(std::iter::repeat_n(image, IMAGES)),
            more: true,
            left_out: true,
        };
        let (_line, mut served) = pair().unwrap();
        let mut buffer = buffer();
        let carried = |bytes: &[u8]| decode::<Reply>(bytes).unwrap();
        assert_eq!(carried(encode(&events, &mut buffer[..]).unwrap()), events);
        assert_eq!(carried(encode(&images, &mut buffer[..]).unwrap()), images);
        assert_eq!(carried(encode(&found, &mut buffer[..]).unwrap()), found);
        assert_eq!(decode::<Request>(encode(&sites, &mut buffer[..]).unwrap()).unwrap(), sites);
        served.reply(&events, &[]).unwrap();
    }

    #[test]
    fn messages_and_descriptors_reach_the_other_end() {
        let (mut line, mut served) = pair().unwrap();
        let guard = std::thread::spawn(move || {
            assert_eq!(served.request().unwrap(), Some(Request::Events));
            let file = std::fs::File::open("/proc/self/status").unwrap();
            served.reply(&Reply::Done, &[file.into()]).unwrap();
            // An invalid message is an error and not the end.
            assert_eq!(served.request(), Err(GuardError::Message));
            assert_eq!(served.request().unwrap(), None);
        });
        let (reply, descriptors) = line.call(&Request::Events).unwrap();
        assert_eq!((reply, descriptors.len()), (Reply::Done, 1));
        send(line.guard().unwrap(), &[0xff; 30], &[]).unwrap();
        drop(line);
        guard.join().unwrap();
    }

    #[test]
    fn a_guard_that_has_ended_is_an_error() {
        let (mut line, served) = pair().unwrap();
        served.wake();
        let mut fds = [nix::poll::PollFd::new(line.events().unwrap(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 0u8).unwrap(), 1);
        drop(served);
        assert_eq!(line.call(&Request::Events).unwrap_err(), GuardError::Gone);
    }
}
