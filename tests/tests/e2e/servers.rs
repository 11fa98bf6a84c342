//! Servers that a test starts, receivers and scrapers of Debian; and paths of tests/toolchains.txt.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use edgelat_tests::lines::Lines;
use edgelat_tests::machine::eventually;
use edgelat_tests::patience;
use serde_json::Value;

pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Path of an entry of tests/toolchains.txt.
pub fn tool_chain(name: &str, version: &str) -> PathBuf {
    let output = Command::new(project().join("tests/toolchain")).args([name, version]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The Prometheus of a Debian package.
pub fn debian_prometheus(version: &str) -> PathBuf {
    tool_chain("prometheus", version).join("usr/bin/prometheus")
}

/// A server started by a test. It ends with this value.
pub struct Server {
    child: Child,
    pub port: u16,
    lines: Lines,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts a server that prints its port.
    pub fn that_says(mut command: Command, port: impl Fn(&str) -> Option<u16>) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stderr.take().unwrap());
        let port = lines.wait(0, patience(), port);
        let port = port.unwrap_or_else(|| panic!("it does not answer: {}", lines.text())).1;
        Self { child, port, lines }
    }

    /// Starts a server on a port; it is ready when `page` exists.
    pub fn on(mut command: Command, port: u16, page: &str) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = Lines::of(child.stderr.take().unwrap());
        let server = Self { child, port, lines };
        let ready = || get(port, page, "*/*").is_some_and(|(status, _)| status == 200);
        assert!(eventually(patience(), ready), "{}", server.lines.text());
        server
    }

    /// A Prometheus with this configuration and these options, with its files in `folder`.
    pub fn prometheus(program: &Path, folder: &Path, config: &str, options: &[&str]) -> Self {
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .args(options)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder);
        Self::on(command, port, "/-/ready")
    }

    /// The samples of a query as JSON.
    pub fn samples(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let (status, body) = get(self.port, &path, "application/json").unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, answer["status"].as_str()), (200, Some("success")), "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// The samples as labels and value.
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let value =
            |sample: &Value| sample["value"][1].as_str().map_or(f64::NAN, |text| text.parse().unwrap());
        self.samples(query).iter().map(|sample| (sample["metric"].clone(), value(sample))).collect()
    }

    /// The value of a query with a single sample.
    pub fn number(&self, query: &str) -> Option<f64> {
        match self.query(query).as_slice() {
            [(_, value)] => Some(*value),
            [] => None,
            more => panic!("{query}: {more:?}"),
        }
    }
}

/// Status and body of a page.
pub fn get(port: u16, path: &str, accept: &str) -> Option<(u16, Vec<u8>)> {
    ask(port, &format!("GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n"))
}

/// Status and body of the answer to a body of JSON.
pub fn post_json(port: u16, path: &str, body: &str) -> Option<(u16, Vec<u8>)> {
    let head = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
    ask(port, &format!("POST {path} HTTP/1.0\r\n{head}\r\n\r\n{body}"))
}

fn ask(port: u16, request: &str) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, bytes.split_off(end + 4)))
}
