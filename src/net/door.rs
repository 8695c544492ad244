//! Unix sockets between processes of one host: messages with descriptors, and who is at the other
//! end.
//!
//! Names are abstract, so nothing is left in a folder, and only processes of the same network
//! namespace find them. Messages keep their borders (`SOCK_SEQPACKET`). Nothing here blocks.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Error, ErrorKind, Result};

/// Descriptors in one message.
const DESCRIPTORS_MAX: usize = 2;

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its process, or `None` where that is not visible from here (another pid namespace).
    pub pid: Option<i32>,
    /// Its effective user when it connected or began to listen.
    pub uid: u32,
}

/// The effective user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(socket)
}

/// A socket that listens under an abstract name, which must be free.
pub fn listen(name: &str, backlog: i32) -> Result<OwnedFd> {
    let refuse = |error: io::Error| Error::io(ErrorKind::Resource, "cannot listen", error);
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes());
    let address = address.map_err(|errno| refuse(errno.into()))?;
    let socket = socket().map_err(refuse)?;
    rustix::net::bind(&socket, &address).map_err(|errno| refuse(errno.into()))?;
    rustix::net::listen(&socket, backlog).map_err(|errno| refuse(errno.into()))?;
    Ok(socket)
}

/// The next caller, or `WouldBlock`.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::accept_with(listener, flags)?)
}

/// A connection to whoever listens under that name. `WouldBlock`: its queue is full.
pub fn connect(name: &str) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Who is at the other end.
pub fn caller(socket: BorrowedFd<'_>) -> io::Result<Caller> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `found`, which outlives the
    // call. (The crate's own call cannot say "no process", which is an answer here.)
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut found).cast(),
            &mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Caller { pid: (found.pid > 0).then_some(found.pid), uid: found.uid })
}

/// Sends one message with descriptors, at most [`DESCRIPTORS_MAX`].
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    let has_room = fds.len() <= DESCRIPTORS_MAX;
    if !has_room || !fds.is_empty() && !extra.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut extra, flags)?;
    if sent != bytes.len() {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(())
}

/// Takes one message: its length, 0 at the end of the connection, and its descriptors. A message
/// that is longer than `into`, or has too many descriptors, is an error; its descriptors are
/// closed.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = {
        let mut vectors = [IoSliceMut::new(into)];
        rustix::net::recvmsg(socket, &mut vectors, &mut extra, flags)?
    };
    let mut fds = Vec::new();
    for message in extra.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
    if received.flags.intersects(cut) || fds.len() > DESCRIPTORS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((received.bytes, fds))
}

/// True once the other end is closed.
pub fn has_ended(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ended = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(ended),
        Err(_) => false,
    }
}

/// Ends a connection for both sides, whoever else holds a descriptor of it.
pub fn end(socket: &OwnedFd) {
    // It fails only where the other side has ended it.
    let _ = rustix::net::shutdown(socket.as_fd(), Shutdown::Both);
}

/// True unless no process has that number any more.
pub fn process_exists(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return true };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(what: &str) -> String {
        format!("mooncake-test-{what}-{}", std::process::id())
    }

    #[test]
    fn messages_keep_their_borders_and_carry_descriptors() {
        let name = name("messages");
        let listener = listen(&name, 4).unwrap();
        assert!(listen(&name, 4).is_err());
        let near = connect(&name).unwrap();
        let far = accept(listener.as_fd()).unwrap();
        assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for end in [&near, &far] {
            let caller = caller(end.as_fd()).unwrap();
            assert_eq!(caller.pid, Some(std::process::id() as i32));
            assert_eq!(caller.uid, own_uid());
        }
        send(near.as_fd(), b"one", &[listener.as_fd(), near.as_fd()]).unwrap();
        send(near.as_fd(), b"two", &[]).unwrap();
        let mut bytes = [0; 8];
        let (length, fds) = receive(far.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], fds.len()), (&b"one"[..], 2));
        assert_eq!(receive(far.as_fd(), &mut bytes[..2]).unwrap_err().raw_os_error(), Some(90));
        let empty = receive(far.as_fd(), &mut bytes).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(fds);
        let three = [near.as_fd(), near.as_fd(), near.as_fd()];
        assert!(send(near.as_fd(), b"three", &three).is_err());
        assert!(!has_ended(far.as_fd()));
        end(&near);
        assert!(has_ended(far.as_fd()) && has_ended(near.as_fd()));
        assert_eq!(receive(far.as_fd(), &mut bytes).unwrap().0, 0);
    }

    #[test]
    fn nobody_listens() {
        let refused = connect(&name("nobody")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(process_exists(std::process::id() as i32));
        assert!(!process_exists(i32::MAX));
    }
}
