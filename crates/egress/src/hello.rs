//! The ClientHello: which name a TLS client means, read from the bytes it sends first (RFC 8446 §4.1.2,
//! RFC 6066 §3).
//!
//! It owns that one message and nothing else of TLS: the bytes are passed on as they came, since the
//! handshake's hash covers them. The threat: a client that says one name to us and another to the server.
//! Whatever is malformed, doubled or cut oddly is therefore an error, never "no name".

use crate::check::{Check, keeps};
use cofferdam_base::HostName;

/// What a ClientHello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in `server_name`, if there is that extension.
    pub name: Option<HostName>,
    /// The client sent `encrypted_client_hello`: the name may be a cover.
    pub encrypted: bool,
}

/// What the first bytes are so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Partial,
    /// All of it is there.
    Complete(ClientHello),
}

/// Why it is no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ClientHello is malformed: {0}")]
pub struct BadHello(&'static str);

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// Reads a ClientHello from the start of a connection.
pub fn read(bytes: &[u8]) -> Result<Hello, BadHello> {
    let mut message = Vec::new();
    let mut records = bytes;
    // The message may be spread over several records.
    loop {
        match records {
            [] => return Ok(Hello::Partial),
            [HANDSHAKE, ..] => {}
            _ => return Err(BadHello("a record is not of the handshake")),
        }
        let [_, major, _, high, low, rest @ ..] = records else { return Ok(Hello::Partial) };
        if *major != 3 {
            return Err(BadHello("the record's version is unknown"));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > 1 << 14 {
            return Err(BadHello("a record's length is out of range"));
        }
        let part = &rest[..rest.len().min(length)];
        message.extend_from_slice(part);
        if keeps(Check::HelloFirst) && message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(BadHello("the first message is not a ClientHello"));
        }
        if let [_, a, b, c, body @ ..] = message.as_slice() {
            let wanted = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if body.len() > wanted {
                return Err(BadHello("something follows the ClientHello in its record"));
            }
            if body.len() == wanted {
                return if part.len() == length {
                    hello(body).map(Hello::Complete)
                } else {
                    Err(BadHello("the record is longer than the ClientHello"))
                };
            }
        }
        if part.len() < length {
            return Ok(Hello::Partial);
        }
        records = &rest[length..];
    }
}

fn hello(body: &[u8]) -> Result<ClientHello, BadHello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    body.short_vector()?; // session id
    body.vector()?; // cipher suites
    body.short_vector()?; // compression methods
    let mut said = ClientHello { name: None, encrypted: false };
    if body.0.is_empty() {
        return Ok(said);
    }
    let mut extensions = Reader(body.vector()?);
    body.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let data = extensions.vector()?;
        if keeps(Check::HelloOneExtension) && seen.contains(&kind) {
            return Err(BadHello("an extension is there twice"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => said.name = Some(server_name(data)?),
            ENCRYPTED_CLIENT_HELLO => said.encrypted = true,
            _ => {}
        }
    }
    Ok(said)
}

fn server_name(data: &[u8]) -> Result<HostName, BadHello> {
    let mut data = Reader(data);
    let mut list = Reader(data.vector()?);
    data.end()?;
    if list.take(1)? != [0] {
        return Err(BadHello("the server name is not a host name"));
    }
    let name = list.vector()?;
    // One name: several are allowed by no client and forbidden for one type.
    if keeps(Check::HelloOneName) {
        list.end()?;
    }
    std::str::from_utf8(name)
        .ok()
        .and_then(|name| HostName::try_from(name).ok())
        .ok_or(BadHello("the server name is not a host name"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadHello> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(BadHello("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<u16, BadHello> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector(&mut self) -> Result<&'a [u8], BadHello> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    fn short_vector(&mut self) -> Result<&'a [u8], BadHello> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn end(&self) -> Result<(), BadHello> {
        if self.0.is_empty() { Ok(()) } else { Err(BadHello("something follows where it should end")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello of rustls for this name.
    pub(crate) fn real(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.enable_sni = true;
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A ClientHello with these extensions, in one record.
    pub(crate) fn made(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, data) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            list.extend(*data);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let length = u16::try_from(body.len()).unwrap();
        let mut record = vec![22, 3, 1];
        record.extend((length + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend(length.to_be_bytes());
        record.extend(body);
        record
    }

    /// The extension that names this server.
    pub(crate) fn sni(name: &str) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        [&(length + 3).to_be_bytes(), [0].as_slice(), &length.to_be_bytes(), name.as_bytes()].concat()
    }

    #[test]
    fn the_name_of_a_real_client_is_read() {
        let bytes = real("api.example.com");
        let said = ClientHello { name: Some("api.example.com".parse().unwrap()), encrypted: false };
        assert_eq!(read(&bytes), Ok(Hello::Complete(said)));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(Hello::Partial), "{cut}");
        }
    }

    #[test]
    fn a_hello_in_several_records_is_read_too() {
        let whole = made(&[(0, &sni("a.example"))]);
        let body = &whole[5..];
        let mut split = Vec::new();
        for part in body.chunks(7) {
            split.extend([22, 3, 1, 0, u8::try_from(part.len()).unwrap()]);
            split.extend(part);
        }
        assert_eq!(read(&split), read(&whole));
        assert!(matches!(read(&whole), Ok(Hello::Complete(ClientHello { name: Some(_), .. }))));
    }

    #[test]
    fn no_name_and_an_encrypted_hello_are_told_apart() {
        let none = ClientHello { name: None, encrypted: false };
        assert_eq!(read(&made(&[(10, &[0, 0])])), Ok(Hello::Complete(none)));
        let Ok(Hello::Complete(said)) = read(&made(&[(0, &sni("a.example")), (0xfe0d, &[0])])) else {
            panic!()
        };
        assert!(said.encrypted);
    }

    #[test]
    fn two_names_odd_lengths_and_other_messages_are_errors() {
        let two = [sni("a.example")[2..].to_vec(), sni("b.example")[2..].to_vec()].concat();
        let two = [&u16::try_from(two.len()).unwrap().to_be_bytes(), two.as_slice()].concat();
        for bad in [
            made(&[(0, &two)]),
            made(&[(0, &sni("a.example")), (0, &sni("b.example"))]),
            made(&[(0, &sni("10.0.0.1"))]),
            made(&[(0, &sni("a.example\0.evil"))]),
            made(&[(0, &[0, 9, 0, 0, 3, b'a'])]),
            [made(&[]), vec![]].concat().iter().map(|b| if *b == 1 { 2 } else { *b }).collect(),
            vec![23, 3, 3, 0, 1, 0],
            vec![22, 2, 0, 0, 1, 1],
            vec![22, 3, 1, 0, 0],
        ] {
            assert!(read(&bad).is_err(), "{bad:02x?}");
        }
        // The positive control: the same maker makes a sound one.
        assert!(matches!(read(&made(&[(0, &sni("a.example"))])), Ok(Hello::Complete(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&[22, 3, 1, 1, 0, 1, 0, 0, 252], bytes.as_slice()].concat());
        }

        #[test]
        fn no_damaged_hello_panics(at in 0usize..80, value: u8, cut in 0usize..90) {
            let mut bytes = made(&[(0, &sni("a.example")), (43, &[2, 3, 4])]);
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let cut = cut.min(bytes.len());
            let _ = read(&bytes[..cut]);
            let _ = read(&bytes);
        }
    }
}
