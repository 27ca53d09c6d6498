//! What a cell trusts: the host's authorities, the operator's own, and its warden's, in files that its programs are
//! told of.
//!
//! It owns the files and the names under which programs look for them. The threat: a file that is half written, or
//! that a cell may write; they are made by rename in a directory that is ours, and bound read-only. What comes from
//! a warden is a [`Certificate`], which can be nothing but one more block.

mod java;

use crate::Error;
use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_base::Certificate;
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where a cell finds the files.
pub const DIR: &str = "/etc/cofferdam/trust";
/// All that it trusts.
pub const BUNDLE: &str = "bundle.pem";
/// What it trusts besides what its programs bring along.
const MORE: &str = "more.pem";
/// All that it trusts, as Java reads it.
const JAVA: &str = "java.jks";
/// Where a host may have its authorities.
const HOST: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A longer file of roots is refused, in bytes.
const LONGEST: u64 = 1 << 20;

/// How programs are told. Those that read the host's bundle by its path find ours there.
pub const ENVIRONMENT: [(&str, &str); 12] = [
    // OpenSSL, and with it Python's ssl, Ruby and wget; Go; rustls.
    ("SSL_CERT_FILE", "/etc/cofferdam/trust/bundle.pem"),
    ("CURL_CA_BUNDLE", "/etc/cofferdam/trust/bundle.pem"),
    ("GIT_SSL_CAINFO", "/etc/cofferdam/trust/bundle.pem"),
    // Python's requests and, in older releases, httpx.
    ("REQUESTS_CA_BUNDLE", "/etc/cofferdam/trust/bundle.pem"),
    ("PIP_CERT", "/etc/cofferdam/trust/bundle.pem"),
    ("AWS_CA_BUNDLE", "/etc/cofferdam/trust/bundle.pem"),
    ("CARGO_HTTP_CAINFO", "/etc/cofferdam/trust/bundle.pem"),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "/etc/cofferdam/trust/bundle.pem"),
    ("NIX_SSL_CERT_FILE", "/etc/cofferdam/trust/bundle.pem"),
    // Node and Bun, and Deno: they bring the public authorities along.
    ("NODE_EXTRA_CA_CERTS", "/etc/cofferdam/trust/more.pem"),
    ("DENO_CERT", "/etc/cofferdam/trust/more.pem"),
    // Every Java, which says so on its standard error.
    ("JAVA_TOOL_OPTIONS", "-Djavax.net.ssl.trustStore=/etc/cofferdam/trust/java.jks"),
];

/// The operator's own authorities, checked: certificates in PEM, at least one, and nothing else.
pub fn extra(path: &Path) -> Result<String, Error> {
    let bad = |why: &str| Error::io(path)(io::Error::other(format!("egress.extra_roots: {why}")));
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    if meta.len() > LONGEST {
        return Err(bad("longer than a mebibyte"));
    }
    if meta.mode() & 0o004 == 0 {
        return Err(bad("wardens, which have uids of their own, may not read it: chmod a+r"));
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let mut certificates = String::new();
    let mut rest = text.as_str();
    while let Some((_, block)) = rest.split_once("-----BEGIN ") {
        let block = block.strip_prefix("CERTIFICATE-----").ok_or_else(|| bad("not only certificates"))?;
        let (body, after) =
            block.split_once("-----END CERTIFICATE-----").ok_or_else(|| bad("it is cut off"))?;
        let body: String = body.split_ascii_whitespace().collect();
        let sound = STANDARD.decode(&body).is_ok_and(|der| der.first() == Some(&0x30));
        let certificate = Certificate::try_from(body).ok().filter(|_| sound);
        certificates += &certificate.ok_or_else(|| bad("a block is no certificate"))?.to_pem();
        rest = after;
    }
    if certificates.is_empty() { Err(bad("there is no certificate in it")) } else { Ok(certificates) }
}

/// Writes the files into this directory, which is made.
pub(crate) fn write(dir: &Path, roots: Option<&Path>, authority: &Certificate) -> Result<(), Error> {
    let more = roots.map(extra).transpose()?.unwrap_or_default() + &authority.to_pem();
    let mut bundle = String::new();
    if let Some(host) = HOST.iter().find(|path| Path::new(path).is_file()) {
        bundle = fs::read_to_string(host).map_err(Error::io(host))?;
        if !bundle.ends_with('\n') {
            bundle.push('\n');
        }
    }
    bundle += &more;
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(dir)(error)),
        _ => {}
    }
    replace(&dir.join(BUNDLE), bundle.as_bytes())?;
    replace(&dir.join(JAVA), &java::store(&bundle))?;
    replace(&dir.join(MORE), more.as_bytes())
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let written = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    written().map_err(Error::io(path))
}

/// What of it is bound where in a cell: the directory, and the bundle in the place of the host's where the cell would
/// see that.
pub(crate) fn binds(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let seen = Path::new(HOST[0]);
    let there = fs::symlink_metadata(seen).is_ok_and(|meta| meta.is_file());
    let bundle = there.then(|| (dir.join(BUNDLE), seen.to_owned()));
    std::iter::once((dir.to_owned(), DIR.into())).chain(bundle).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn certificate(first: u8) -> Certificate {
        Certificate::try_from(STANDARD.encode([0x30, first, 1, 2, 3, 4])).unwrap()
    }

    #[test]
    fn a_cell_trusts_the_hosts_authorities_the_operators_and_its_wardens() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, trust) = (dir.path().join("roots.pem"), dir.path().join("trust"));
        fs::write(&roots, format!("a comment\n{}", certificate(7).to_pem())).unwrap();
        write(&trust, Some(&roots), &certificate(1)).unwrap();
        write(&trust, Some(&roots), &certificate(2)).unwrap();
        let read = |name: &str| fs::read_to_string(trust.join(name)).unwrap();
        assert_eq!(read(MORE), certificate(7).to_pem() + &certificate(2).to_pem());
        assert!(read(BUNDLE).ends_with(&read(MORE)));
        if let Some(host) = HOST.iter().find(|path| Path::new(path).is_file()) {
            assert!(read(BUNDLE).starts_with(&fs::read_to_string(host).unwrap()));
        }
        assert_eq!(fs::read_dir(&trust).unwrap().count(), 3);
        for (_, path) in ENVIRONMENT {
            let path = path.rsplit('=').next().unwrap();
            assert!(trust.join(Path::new(path).strip_prefix(DIR).unwrap()).exists(), "{path}");
        }
    }

    #[test]
    fn extra_roots_are_certificates_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let good = certificate(7).to_pem();
        for bad in [
            String::new(),
            "no certificate".to_owned(),
            good.replace("END", "END OF"),
            good.replace("CERTIFICATE", "PRIVATE KEY"),
            format!("{good}{}", good.replace('M', "!")),
            format!("{good}{}", good.replace('M', "A")),
        ] {
            fs::write(&path, &bad).unwrap();
            assert!(extra(&path).is_err(), "{bad}");
        }
        fs::write(&path, good.repeat(2)).unwrap();
        assert_eq!(extra(&path).unwrap(), good.repeat(2));
        assert!(extra(&dir.path().join("none")).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(extra(&path).is_err());
    }
}
