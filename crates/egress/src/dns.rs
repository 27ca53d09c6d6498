//! The cell's resolver: every name gets a synthetic address, and nothing is asked upstream.
//!
//! It owns the wire format of questions and answers. It refuses to know what policy says of a name: a
//! look-up opens nothing. The threats: names as a channel out (none leaves), HTTPS and SVCB records that
//! would switch on ECH or QUIC (none exists), hostile packets (parsed by a maintained library, answered
//! from our own parts).

use crate::{
    check::{Check, keeps},
    names::{Names, NoAddress},
};
use cofferdam_base::{HostName, Millis};
use cofferdam_sys::socket::{udp_recv_from_to, udp_send_from};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::UdpSocket,
};

/// How long an answer is good for, in seconds: every new connection may bring a look-up, so that addresses
/// in use stay fresh.
const TTL: u32 = 1;
/// The longest question over UDP, in bytes: EDNS's usual size.
const LONGEST: usize = 4096;

/// What to do with one packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The packet to send back; none if the question deserves no answer.
    pub packet: Option<Vec<u8>>,
    /// A name was refused an address for this reason.
    pub refused: Option<NoAddress>,
}

/// Answers one packet. Never panics, whatever it holds.
pub fn answer(packet: &[u8], names: &mut Names, now: Millis) -> Reply {
    let Ok(question) = Message::from_vec(packet) else {
        // Something that at least has a header, and is not itself a response, is told so.
        let packet = match *packet {
            [high, low, flags, _, _, _, _, _, _, _, _, _, ..] if flags & 0x80 == 0 => {
                failure(u16::from_be_bytes([high, low]), OpCode::Query, ResponseCode::FormErr)
            }
            _ => None,
        };
        return Reply { packet, refused: None };
    };
    let id = question.metadata.id;
    if keeps(Check::Questioned) && question.metadata.message_type != MessageType::Query {
        return Reply { packet: None, refused: None };
    }
    if keeps(Check::LookUps) && question.metadata.op_code != OpCode::Query {
        let packet = failure(id, question.metadata.op_code, ResponseCode::NotImp);
        return Reply { packet, refused: None };
    }
    let [query] = question.queries.as_slice() else {
        return Reply { packet: failure(id, OpCode::Query, ResponseCode::FormErr), refused: None };
    };
    let mut response = Message::response(id, OpCode::Query);
    response.metadata.recursion_desired = question.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_query(query.clone());
    let mut refused = None;
    if query.query_class() == DNSClass::IN || !keeps(Check::Internet) {
        match addresses(query.query_type(), &query.name().to_ascii(), names, now) {
            Ok(Some(data)) => {
                response.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
            }
            Ok(None) => {}
            Err(Refused::NoName) => response.metadata.response_code = ResponseCode::NXDomain,
            Err(Refused::NoAddress(why)) => {
                response.metadata.response_code = ResponseCode::Refused;
                refused = Some(why);
            }
        }
    } else {
        response.metadata.response_code = ResponseCode::Refused;
    }
    Reply { packet: response.to_vec().ok(), refused }
}

enum Refused {
    NoName,
    NoAddress(NoAddress),
}

/// The one record that a question of this type gets; none for types that we know nothing of (NODATA).
fn addresses(
    wanted: RecordType,
    name: &str,
    names: &mut Names,
    now: Millis,
) -> Result<Option<RData>, Refused> {
    let v4 = match wanted {
        RecordType::A => true,
        RecordType::AAAA => false,
        _ => return Ok(None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = HostName::try_from(name).map_err(|_| Refused::NoName)?;
    let loopback = name.labels().last() == Some("localhost");
    let (a, aaaa) = if loopback {
        (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    } else {
        let pair = names.look_up(&name, now).map_err(Refused::NoAddress)?;
        (pair.v4, pair.v6)
    };
    Ok(Some(if v4 { RData::A(A(a)) } else { RData::AAAA(AAAA(aaaa)) }))
}

fn failure(id: u16, op_code: OpCode, code: ResponseCode) -> Option<Vec<u8>> {
    Message::error_msg(id, op_code, code).to_vec().ok()
}

/// Serves one UDP listener until it breaks. `answer` is [`answer`] with a table and a clock.
pub async fn serve_udp(socket: OwnedFd, mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> io::Error {
    let socket = std::net::UdpSocket::from(socket);
    let socket = match socket.set_nonblocking(true).and_then(|()| UdpSocket::from_std(socket)) {
        Ok(socket) => socket,
        Err(error) => return error,
    };
    let mut buffer = vec![0; LONGEST];
    loop {
        let received =
            socket.async_io(Interest::READABLE, || udp_recv_from_to(socket.as_fd(), &mut buffer)).await;
        match received {
            Ok(datagram) => {
                if let Some(reply) = answer(&buffer[..datagram.length]) {
                    // A reply that cannot be sent is a lost datagram: the client asks again.
                    let _ = udp_send_from(socket.as_fd(), &reply, datagram.to, datagram.from);
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused => {}
                _ => return error,
            },
        }
    }
}

/// Serves one TCP connection: packets with a length in front, until the client ends or stays silent.
pub async fn serve_tcp<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    idle: std::time::Duration,
    mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let length = match tokio::time::timeout(idle, stream.read_u16()).await {
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        buffer.resize(usize::from(length), 0);
        tokio::time::timeout(idle, stream.read_exact(&mut buffer)).await??;
        let Some(reply) = answer(&buffer) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = Vec::with_capacity(reply.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&reply);
        stream.write_all(&framed).await?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hickory_proto::{op::Query, rr::Name};
    use proptest::prelude::*;

    fn ask(names: &mut Names, name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let reply = answer(&question.to_vec().unwrap(), names, Millis(1)).packet.unwrap();
        let response = Message::from_vec(&reply).unwrap();
        assert_eq!(response.metadata.id, question.metadata.id);
        response
    }

    #[test]
    fn both_families_get_synthetic_addresses_with_a_ttl_of_one_second() {
        let mut names = Names::new(20);
        let a = ask(&mut names, "Api.Example.com.", RecordType::A);
        assert_eq!(a.answers[0].data, RData::A(A(Ipv4Addr::new(198, 18, 0, 0))));
        assert_eq!(a.answers[0].ttl, 1);
        let aaaa = ask(&mut names, "api.example.com.", RecordType::AAAA);
        assert_eq!(aaaa.answers[0].data, RData::AAAA(AAAA("fdcf:c0ff:e2da::".parse().unwrap())));
    }

    #[test]
    fn other_types_have_no_data_and_take_no_address() {
        let mut names = Names::new(20);
        for kind in [
            RecordType::TXT,
            RecordType::HTTPS,
            RecordType::SVCB,
            RecordType::MX,
            RecordType::NULL,
            RecordType::PTR,
            RecordType::ANY,
        ] {
            let response = ask(&mut names, "secret-bytes.example.", kind);
            assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(response.answers.is_empty() && response.authorities.is_empty(), "{kind}");
        }
        let first = ask(&mut names, "first.example.", RecordType::A);
        assert_eq!(first.answers[0].data, RData::A(A(Ipv4Addr::new(198, 18, 0, 0))));
    }

    #[test]
    fn other_classes_opcodes_and_literals_are_refused() {
        let mut names = Names::new(20);
        let mut question = Message::query();
        let mut query = Query::query(Name::from_ascii("version.bind.").unwrap(), RecordType::A);
        query.set_query_class(DNSClass::CH);
        question.add_query(query);
        let code = |packet: &[u8], names: &mut Names| {
            let reply = answer(packet, names, Millis(1)).packet.unwrap();
            Message::from_vec(&reply).unwrap().metadata.response_code
        };
        assert_eq!(code(&question.to_vec().unwrap(), &mut names), ResponseCode::Refused);
        let update = Message::new(7, MessageType::Query, OpCode::Update);
        assert_eq!(code(&update.to_vec().unwrap(), &mut names), ResponseCode::NotImp);
        let empty = Message::query();
        assert_eq!(code(&empty.to_vec().unwrap(), &mut names), ResponseCode::FormErr);
        let literal = ask(&mut names, "10.0.0.1.", RecordType::A);
        assert_eq!(literal.metadata.response_code, ResponseCode::NXDomain);
        let local = ask(&mut names, "acme.localhost.", RecordType::A);
        assert_eq!(local.answers[0].data, RData::A(A(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn a_flood_of_names_is_refused_and_known_names_go_on() {
        let mut names = Names::new(2);
        ask(&mut names, "a.example.", RecordType::A);
        ask(&mut names, "b.example.", RecordType::A);
        let third = ask(&mut names, "c.example.", RecordType::A);
        assert_eq!(third.metadata.response_code, ResponseCode::Refused);
        assert_eq!(ask(&mut names, "a.example.", RecordType::A).answers.len(), 1);
    }

    #[test]
    fn responses_and_scraps_are_dropped_and_garbage_with_a_header_is_told() {
        let mut names = Names::new(2);
        let response = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&response, &mut names, Millis(0)).packet, None);
        assert_eq!(answer(&[1, 2, 3], &mut names, Millis(0)).packet, None);
        let mut garbage = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        garbage.push(0xc0);
        let reply = answer(&garbage, &mut names, Millis(0)).packet.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::FormErr);
    }

    #[tokio::test]
    async fn questions_over_tcp_are_answered_one_after_another() {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        let packet = question.to_vec().unwrap();
        let (mut client, server) = tokio::io::duplex(4096);
        let mut names = Names::new(20);
        let served = tokio::spawn(serve_tcp(server, std::time::Duration::from_secs(5), move |packet| {
            answer(packet, &mut names, Millis(1)).packet
        }));
        for _ in 0..2 {
            client.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
            client.write_all(&packet).await.unwrap();
            let length = client.read_u16().await.unwrap();
            let mut reply = vec![0; usize::from(length)];
            client.read_exact(&mut reply).await.unwrap();
            assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 1);
        }
        drop(client);
        served.await.unwrap().unwrap();
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut names = Names::new(20);
            let _ = answer(&packet, &mut names, Millis(0));
        }

        #[test]
        fn no_damaged_question_panics(at in 0usize..40, value: u8) {
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii("api.example.com.").unwrap(), RecordType::A));
            let mut packet = question.to_vec().unwrap();
            if let Some(byte) = packet.get_mut(at) { *byte = value; }
            let _ = answer(&packet, &mut Names::new(20), Millis(0));
        }
    }
}
