//! The admin API, one connection a request, as the command line speaks it but without a process for each.

use serde_json::Value;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// A host's control socket.
pub struct Admin(PathBuf);

/// A request that was sent and whose answer was not read.
pub struct Asked(UnixStream, String);

impl Admin {
    /// Of the host with this data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("run/control.sock"))
    }

    /// Sends a request.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Asked {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        let body = body.to_string();
        let request = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: cofferdam\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        Asked(stream, format!("{method} {path}"))
    }

    /// The same to its end, which must be good.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, path, body).answer()
    }
}

impl Asked {
    /// The answer, which must be good.
    pub fn answer(mut self) -> Value {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        assert!(head.starts_with("HTTP/1.1 2"), "{}: {text}", self.1);
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{}: {text}", self.1))
    }
}
