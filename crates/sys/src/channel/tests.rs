#![allow(clippy::unwrap_used)]

use super::*;
use rustix::{io::FdFlags, net};
use std::{io::Write, mem::MaybeUninit};

fn channels() -> (Channel, Channel) {
    let (a, b) = pair().unwrap();
    (a.into(), b.into())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

#[test]
fn a_message_and_its_descriptors_arrive_in_order_and_are_not_inherited() {
    let (a, b) = channels();
    let (first, mut first_in) = io::pipe().unwrap();
    let (second, mut second_in) = io::pipe().unwrap();
    a.send(&"hello", &[first.as_fd(), second.as_fd()]).unwrap();
    let (message, descriptors): (String, _) = b.recv().unwrap().unwrap();
    assert_eq!(message, "hello");
    let [first, second] = exactly(descriptors).unwrap();
    first_in.write_all(b"1").unwrap();
    second_in.write_all(b"2").unwrap();
    for (descriptor, expected) in [(first, b"1"), (second, b"2")] {
        assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(FdFlags::CLOEXEC));
        let mut byte = [0];
        rustix::io::read(&descriptor, &mut byte).unwrap();
        assert_eq!(&byte, expected);
    }
}

#[test]
fn the_longest_packet_fits_and_a_longer_one_is_not_sent() {
    let (a, b) = channels();
    let fits = "x".repeat(MAX_PACKET - 2);
    a.try_send(&fits, &[]).unwrap();
    assert_eq!(b.try_recv::<String>().unwrap().unwrap().0, fits);
    let longer = "x".repeat(MAX_PACKET - 1);
    assert!(matches!(a.send(&longer, &[]), Err(ChannelError::TooLong(_))));
    assert!(matches!(b.try_recv::<String>(), Err(ChannelError::WouldBlock)));
}

#[test]
fn a_peer_that_never_reads_does_not_block_a_try_send() {
    let (a, _b) = channels();
    let packet = "x".repeat(MAX_PACKET - 2);
    let refused = (0..64).find_map(|_| a.try_send(&packet, &[]).err());
    assert!(matches!(refused, Some(ChannelError::WouldBlock)), "{refused:?}");
}

#[test]
fn a_closed_peer_is_the_end_after_everything_it_sent() {
    let (a, b) = channels();
    // Unread data makes the kernel report a reset first.
    b.send(&1, &[]).unwrap();
    a.send(&2, &[]).unwrap();
    a.send(&3, &[]).unwrap();
    drop(a);
    assert_eq!(b.recv::<u8>().unwrap().unwrap().0, 2);
    assert_eq!(b.recv::<u8>().unwrap().unwrap().0, 3);
    assert!(b.recv::<u8>().unwrap().is_none());
    assert!(matches!(b.send(&4, &[]), Err(ChannelError::Closed)));
}

#[test]
fn packets_that_are_too_long_or_do_not_parse_are_errors() {
    let (a, b) = pair().unwrap();
    let b = Channel::from(b);
    net::send(&a, b"{\"unfinished\"", net::SendFlags::NOSIGNAL).unwrap();
    assert!(matches!(b.recv::<serde_json::Value>(), Err(ChannelError::Format(_))));
    net::send(&a, &vec![b' '; MAX_PACKET + 1], net::SendFlags::NOSIGNAL).unwrap();
    assert!(matches!(b.recv::<serde_json::Value>(), Err(ChannelError::CutOff)));
    net::send(&a, &vec![b' '; MAX_PACKET + 5000], net::SendFlags::NOSIGNAL).unwrap();
    assert!(matches!(b.recv::<serde_json::Value>(), Err(ChannelError::CutOff)));
    // The positive control: the same socket still carries a sound packet.
    net::send(&a, b"1", net::SendFlags::NOSIGNAL).unwrap();
    assert_eq!(b.recv::<u8>().unwrap().unwrap().0, 1);
}

#[test]
fn surplus_descriptors_end_the_wire_and_are_closed() {
    // On a thread of its own, whose table of descriptors nobody else changes.
    std::thread::spawn(|| {
        rustix_unshare_files();
        let (a, b) = channels();
        let null = std::fs::File::open("/dev/null").unwrap();
        let before = open_descriptors();

        a.send(&1, &[null.as_fd(), null.as_fd()]).unwrap();
        let (_, two) = b.recv::<u8>().unwrap().unwrap();
        assert!(matches!(exactly::<1>(two), Err(ChannelError::Descriptors { expected: 1, found: 2 })));
        assert_eq!(open_descriptors(), before);

        // One descriptor more than a receiver has room for: the packet is refused, all are closed.
        let many = vec![null.as_fd(); MAX_DESCRIPTORS + 8];
        assert!(matches!(a.send(&1, &many), Err(ChannelError::TooManyDescriptors(72))));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 8))];
        let mut control = net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(net::SendAncillaryMessage::ScmRights(&many)));
        let packet = [io::IoSlice::new(b"1")];
        net::sendmsg(&a, &packet, &mut control, net::SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(b.recv::<u8>(), Err(ChannelError::CutOff)));
        assert_eq!(open_descriptors(), before);

        // The positive control: the most that is allowed does arrive.
        a.send(&1, &many[..MAX_DESCRIPTORS]).unwrap();
        assert_eq!(b.recv::<u8>().unwrap().unwrap().1.len(), MAX_DESCRIPTORS);
        assert_eq!(open_descriptors(), before);
    })
    .join()
    .unwrap();
}

/// Gives this thread a table of descriptors of its own.
fn rustix_unshare_files() {
    // SAFETY: the thread owns no descriptor that another thread would close for it; it only makes new ones.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn two_tasks_share_one_async_channel_while_the_peer_is_slow() {
    let (a, b) = pair().unwrap();
    let a = std::sync::Arc::new(AsyncChannel::new(a).unwrap());
    let packet = "x".repeat(MAX_PACKET - 2);
    let sender = {
        let (a, packet) = (a.clone(), packet.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                a.send(&packet, &[]).await.unwrap();
            }
        })
    };
    let peer = std::thread::spawn(move || {
        let b = Channel::from(b);
        let read = (0..20).filter(|_| b.recv::<String>().unwrap().unwrap().0 == packet).count();
        b.send(&read, &[]).unwrap();
    });
    assert_eq!(a.recv::<usize>().await.unwrap().unwrap().0, 20);
    sender.await.unwrap();
    peer.join().unwrap();
    assert!(a.recv::<usize>().await.unwrap().is_none());
}
