//! The disk, by the protocol of network block devices (doc/proto.md of NetworkBlockDevice/nbd): the fixed newstyle handshake and
//! simple replies, for one client.
//!
//! Requests are done one after the other in the order in which they come, so that at a flush all that was answered before, which is
//! all that came before, is covered. What is in memory here is what a disk has in its cache: the log says what of it is durable.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Mutex, PoisonError};

use crate::log::{Act, Log};

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// Of the handshake: fixed newstyle, and no zeros behind the answer to NBD_OPT_EXPORT_NAME if the client wants none either.
const HANDSHAKE: u16 = FIXED_NEWSTYLE | NO_ZEROES;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 1 << 1;

/// Of the disk: it has flags, flush, FUA, trim and write-zeroes.
const TRANSMISSION: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_WRITE_ZEROES: u16 = 6;

const CMD_FLAG_FUA: u16 = 1;

const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// Bytes of an option, and of a request, that are taken.
const OPTION_BYTES: u32 = 4096;
const REQUEST_BYTES: u32 = 32 << 20;

/// A disk in memory, with a log of what is done to it.
#[derive(Debug)]
pub struct Disk {
    bytes: Vec<u8>,
    log: Log,
}

impl Disk {
    /// One that holds `bytes`.
    pub fn new(bytes: Vec<u8>, log: Log) -> Self {
        Self { bytes, log }
    }

    /// Log of the requests.
    pub fn into_log(self) -> Log {
        self.log
    }

    /// Executes one request.
    fn act(&mut self, act: Act) -> Result<(), u32> {
        let bytes = &mut self.bytes;
        match &act {
            Act::Write { offset, bytes: written, .. } => {
                range(bytes, *offset, written.len() as u64)?.copy_from_slice(written);
            }
            Act::Zero { offset, length, .. } => range(bytes, *offset, *length)?.fill(0),
            Act::Flush => {}
        }
        self.log.add(act).map_err(|_| EIO)
    }
}

fn range(bytes: &mut [u8], offset: u64, length: u64) -> Result<&mut [u8], u32> {
    let from = usize::try_from(offset).map_err(|_| EINVAL)?;
    let to = usize::try_from(length).ok().and_then(|length| from.checked_add(length)).ok_or(EINVAL)?;
    bytes.get_mut(from..to).ok_or(EINVAL)
}

/// Serves a client until it goes.
///
/// # Errors
/// When the connection breaks, or the client does not keep to the protocol. One that is killed just ends.
pub fn serve(mut client: impl Read + Write, disk: &Mutex<Disk>) -> io::Result<()> {
    let lock = || disk.lock().unwrap_or_else(PoisonError::into_inner);
    let size = lock().bytes.len() as u64;
    let served = handshake(&mut client, size).and_then(|begin| match begin {
        true => transmit(&mut client, lock),
        false => Ok(()),
    });
    match served {
        // Killed in the middle of a request: what had not come whole is not there.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ) =>
        {
            Ok(())
        }
        served => served,
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn take<const N: usize>(client: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_u16(client: &mut impl Read) -> io::Result<u16> {
    take(client).map(u16::from_be_bytes)
}

fn take_u32(client: &mut impl Read) -> io::Result<u32> {
    take(client).map(u32::from_be_bytes)
}

fn take_u64(client: &mut impl Read) -> io::Result<u64> {
    take(client).map(u64::from_be_bytes)
}

fn take_bytes(client: &mut impl Read, length: u32, most: u32) -> io::Result<Vec<u8>> {
    if length > most {
        return Err(wrong(format!("{length} bytes at once, where {most} are the most")));
    }
    let mut bytes = vec![0; length as usize];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// True where the client wants the disk, false where it only asked.
fn handshake(client: &mut (impl Read + Write), size: u64) -> io::Result<bool> {
    let mut hello = NBDMAGIC.to_be_bytes().to_vec();
    hello.extend(IHAVEOPT.to_be_bytes());
    hello.extend(HANDSHAKE.to_be_bytes());
    client.write_all(&hello)?;
    let flags = take_u32(client)?;
    loop {
        let magic = take_u64(client)?;
        if magic != IHAVEOPT {
            return Err(wrong(format!("{magic:#x} is no option")));
        }
        let option = take_u32(client)?;
        let length = take_u32(client)?;
        let data = take_bytes(client, length, OPTION_BYTES)?;
        let mut export = size.to_be_bytes().to_vec();
        export.extend(TRANSMISSION.to_be_bytes());
        match option {
            // Whatever the name: there is one disk.
            OPT_EXPORT_NAME => {
                if flags & u32::from(NO_ZEROES) == 0 {
                    export.extend([0; 124]);
                }
                client.write_all(&export)?;
                return Ok(true);
            }
            OPT_ABORT => {
                option_reply(client, option, REP_ACK, &[])?;
                return Ok(false);
            }
            OPT_INFO | OPT_GO => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(&export);
                option_reply(client, option, REP_INFO, &info)?;
                if wants(&data, INFO_BLOCK_SIZE) {
                    let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                    for bytes in [crate::cut::SECTOR as u32, 4096, REQUEST_BYTES] {
                        info.extend(bytes.to_be_bytes());
                    }
                    option_reply(client, option, REP_INFO, &info)?;
                }
                option_reply(client, option, REP_ACK, &[])?;
                if option == OPT_GO {
                    return Ok(true);
                }
            }
            _ => option_reply(client, option, REP_ERR_UNSUP, &[])?,
        }
    }
}

/// Is a kind of information among those that NBD_OPT_GO or NBD_OPT_INFO ask for? Behind the length of a name and the name stand how
/// many they are and each of them.
fn wants(data: &[u8], kind: u16) -> bool {
    let name = data.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let kinds = data.get(4 + name + 2..).unwrap_or_default();
    kinds.chunks_exact(2).any(|bytes| bytes == kind.to_be_bytes())
}

fn option_reply(client: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = OPTION_REPLY.to_be_bytes().to_vec();
    for word in [option, kind, data.len() as u32] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(data);
    client.write_all(&reply)
}

fn transmit<G: std::ops::DerefMut<Target = Disk>>(
    client: &mut (impl Read + Write),
    lock: impl Fn() -> G,
) -> io::Result<()> {
    loop {
        let magic = take_u32(client)?;
        if magic != REQUEST {
            return Err(wrong(format!("{magic:#x} is no request")));
        }
        let (flags, command) = (take_u16(client)?, take_u16(client)?);
        let cookie = take_u64(client)?;
        let offset = take_u64(client)?;
        let length = take_u32(client)?;
        let durable = flags & CMD_FLAG_FUA != 0;
        let mut read = Vec::new();
        let done = match command {
            CMD_DISC => return Ok(()),
            CMD_READ if length > REQUEST_BYTES => Err(EINVAL),
            CMD_READ => {
                range(&mut lock().bytes, offset, length.into()).map(|bytes| read.extend_from_slice(bytes))
            }
            CMD_WRITE => {
                let bytes = take_bytes(client, length, REQUEST_BYTES)?;
                lock().act(Act::Write { offset, bytes, durable })
            }
            CMD_FLUSH => lock().act(Act::Flush),
            CMD_TRIM | CMD_WRITE_ZEROES => {
                lock().act(Act::Zero { offset, length: length.into(), durable, trim: command == CMD_TRIM })
            }
            _ => Err(EINVAL),
        };
        let mut reply = SIMPLE_REPLY.to_be_bytes().to_vec();
        reply.extend(done.err().unwrap_or(0).to_be_bytes());
        reply.extend(cookie.to_be_bytes());
        reply.append(&mut read);
        client.write_all(&reply)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    const SIZE: usize = 64 * 1024;

    /// Talks to a disk of [`SIZE`] bytes; gives what was done to it.
    fn with(client: impl FnOnce(&mut UnixStream)) -> (Vec<Act>, Vec<u8>, io::Result<()>) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let disk = Mutex::new(Disk::new(vec![0; SIZE], Log::new(Instant::now(), None)));
        let served = std::thread::scope(|scope| {
            let server = scope.spawn(|| serve(theirs, &disk));
            client(&mut ours);
            drop(ours);
            server.join().unwrap()
        });
        let disk = disk.into_inner().unwrap();
        let acts = disk.log.entries().iter().map(|entry| entry.act.clone()).collect();
        (acts, disk.bytes, served)
    }

    fn option(client: &mut UnixStream, option: u32, data: &[u8]) {
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        client.write_all(&bytes).unwrap();
    }

    /// The handshake with NBD_OPT_GO.
    fn go(client: &mut UnixStream) {
        assert_eq!(&take::<16>(client).unwrap(), b"NBDMAGICIHAVEOPT");
        assert_eq!(take_u16(client).unwrap(), 3);
        client.write_all(&3u32.to_be_bytes()).unwrap();
        // One that it does not know first: the client goes on.
        option(client, 8, &[]);
        assert_eq!(take_u64(client).unwrap(), OPTION_REPLY);
        assert_eq!([(); 3].map(|()| take_u32(client).unwrap()), [8, REP_ERR_UNSUP, 0]);
        option(client, OPT_GO, &[0, 0, 0, 1, b'x', 0, 1, 0, 3]);
        assert_eq!(take_u64(client).unwrap(), OPTION_REPLY);
        assert_eq!([(); 3].map(|()| take_u32(client).unwrap()), [OPT_GO, REP_INFO, 12]);
        assert_eq!(take_u16(client).unwrap(), INFO_EXPORT);
        assert_eq!(take_u64(client).unwrap(), SIZE as u64);
        assert_eq!(take_u16(client).unwrap(), TRANSMISSION);
        assert_eq!(take_u64(client).unwrap(), OPTION_REPLY);
        assert_eq!([(); 3].map(|()| take_u32(client).unwrap()), [OPT_GO, REP_INFO, 14]);
        assert_eq!(take_u16(client).unwrap(), INFO_BLOCK_SIZE);
        assert_eq!([(); 3].map(|()| take_u32(client).unwrap()), [512, 4096, REQUEST_BYTES]);
        assert_eq!(take_u64(client).unwrap(), OPTION_REPLY);
        assert_eq!([(); 3].map(|()| take_u32(client).unwrap()), [OPT_GO, REP_ACK, 0]);
    }

    /// Sends a request; the error that comes back, and so many bytes.
    fn ask(
        client: &mut UnixStream,
        [flags, command]: [u16; 2],
        (offset, length): (u64, u32),
        data: &[u8],
        back: usize,
    ) -> (u32, Vec<u8>) {
        let mut bytes = REQUEST.to_be_bytes().to_vec();
        bytes.extend([flags, command].map(u16::to_be_bytes).concat());
        bytes.extend([77, offset].map(u64::to_be_bytes).concat());
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
        client.write_all(&bytes).unwrap();
        assert_eq!(take_u32(client).unwrap(), SIMPLE_REPLY);
        let error = take_u32(client).unwrap();
        assert_eq!(take_u64(client).unwrap(), 77);
        let mut read = vec![0; back];
        client.read_exact(&mut read).unwrap();
        (error, read)
    }

    #[test]
    fn each_write_and_flush_is_logged_in_its_order_and_what_was_written_is_read() {
        let (acts, bytes, served) = with(|client| {
            go(client);
            assert_eq!(ask(client, [0, CMD_WRITE], (512, 4), b"abcd", 0).0, 0);
            assert_eq!(ask(client, [0, CMD_FLUSH], (0, 0), &[], 0).0, 0);
            assert_eq!(ask(client, [1, CMD_WRITE], (514, 4), b"efgh", 0).0, 0);
            assert_eq!(ask(client, [0, CMD_READ], (511, 8), &[], 8), (0, b"\0abefgh\0".to_vec()));
            assert_eq!(ask(client, [0, CMD_WRITE_ZEROES], (512, 2), &[], 0).0, 0);
            assert_eq!(ask(client, [0, CMD_TRIM], (517, 1), &[], 0).0, 0);
        });
        served.unwrap();
        assert_eq!(bytes[511..519], *b"\0\0\0efg\0\0");
        assert_eq!(
            acts,
            [
                Act::Write { offset: 512, bytes: b"abcd".to_vec(), durable: false },
                Act::Flush,
                Act::Write { offset: 514, bytes: b"efgh".to_vec(), durable: true },
                Act::Zero { offset: 512, length: 2, durable: false, trim: false },
                Act::Zero { offset: 517, length: 1, durable: false, trim: true },
            ]
        );
    }

    #[test]
    fn what_is_behind_the_end_or_unknown_is_refused_and_changes_nothing() {
        let (acts, _, served) = with(|client| {
            go(client);
            let end = SIZE as u64;
            for (command, place) in
                [(CMD_READ, (end - 1, 2)), (CMD_TRIM, (u64::MAX, 1)), (9, (0, 0)), (CMD_READ, (0, u32::MAX))]
            {
                assert_eq!(ask(client, [0, command], place, &[], 0).0, EINVAL, "{command}");
            }
            assert_eq!(ask(client, [0, CMD_WRITE], (end, 1), b"x", 0).0, EINVAL);
        });
        served.unwrap();
        assert_eq!(acts, []);
    }

    #[test]
    fn a_client_that_is_killed_in_a_write_has_not_written() {
        let (acts, bytes, served) = with(|client| {
            go(client);
            let mut bytes = REQUEST.to_be_bytes().to_vec();
            bytes.extend([0, CMD_WRITE].map(u16::to_be_bytes).concat());
            bytes.extend([1u64, 0].map(u64::to_be_bytes).concat());
            bytes.extend(1024u32.to_be_bytes());
            bytes.extend([5; 1000]);
            client.write_all(&bytes).unwrap();
        });
        served.unwrap();
        assert_eq!((acts.len(), bytes[0]), (0, 0));
    }

    #[test]
    fn old_clients_get_the_disk_by_its_name_and_others_may_leave() {
        let (_, _, served) = with(|client| {
            take::<18>(client).unwrap();
            client.write_all(&1u32.to_be_bytes()).unwrap();
            option(client, OPT_EXPORT_NAME, b"any");
            assert_eq!(take_u64(client).unwrap(), SIZE as u64);
            assert_eq!(take::<126>(client).unwrap()[2..], [0; 124]);
            assert_eq!(ask(client, [0, CMD_FLUSH], (0, 0), &[], 0).0, 0);
        });
        served.unwrap();
        let (_, _, served) = with(|client| {
            take::<18>(client).unwrap();
            client.write_all(&3u32.to_be_bytes()).unwrap();
            option(client, OPT_ABORT, &[]);
            take::<20>(client).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        });
        served.unwrap();
        let (_, _, served) = with(|client| {
            take::<18>(client).unwrap();
            client.write_all(&[0xff; 12]).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        });
        assert!(served.unwrap_err().to_string().contains("is no option"));
    }
}
