//! The host's own name servers, as `/etc/resolv.conf` lists them. Read by the launcher only, at start.

use super::NameServer;
use crate::Error;
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// The first three `nameserver` lines, as the C library takes them.
pub fn nameservers_of_the_host(path: &Path) -> Result<Vec<NameServer>, Error> {
    Ok(parse(&std::fs::read_to_string(path).map_err(Error::io(path))?))
}

fn parse(text: &str) -> Vec<NameServer> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        // A zone (`fe80::1%eth0`) means a link, which no warden reaches.
        Some(NameServer(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53)))
    };
    text.lines().filter_map(server).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_addresses_count() {
        let text = "# nameserver 9.9.9.9\nsearch example\nnameserver 192.0.2.1\nnameserver  2001:db8::1 \n\
                    nameserver fe80::1%eth0\nnameserver\nnameservers 1.1.1.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = parse(text).into_iter().map(String::from).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
    }
}
