//! Metadata services as child processes: started on a free port, ended by pid.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) use crate::ports::free_port;

/// Longest start of a service on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A folder that is removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("mc-metadata-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says that something did not run, and why, where `tests/run` counts it: past the capture of what
/// tests print.
pub(crate) fn skipped(what: &str, reason: &str) {
    let thread = std::thread::current();
    let line = format!("skip {} {what}: {reason}\n", thread.name().unwrap_or("unnamed"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A running service. It dies with the thread that started it.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) folder: Folder,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Child,
}

impl Server {
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn start(
        program: &str,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        folder: Folder,
        port: u16,
    ) -> Server {
        let child = spawn(program, &arguments, &environment, folder.path());
        let program = program.to_owned();
        let mut server = Server { port, folder, program, arguments, environment, child };
        server.wait_until_listening();
        server
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the service, removes what it knew, and starts it again at the same place.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        self.resume();
    }

    /// Starts the service again after [`Server::kill`].
    pub(crate) fn resume(&mut self) {
        self.child = spawn(&self.program, &self.arguments, &self.environment, self.folder.path());
        self.wait_until_listening();
    }

    fn wait_until_listening(&mut self) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                panic!("{} ended with {status}: {}", self.program, log.unwrap_or_default());
            }
            assert!(Instant::now() < end, "{} does not listen", self.program);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(
    program: &str,
    arguments: &[String],
    environment: &[(String, String)],
    folder: &Path,
) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().cloned())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    die_with_parent(&mut command);
    command.spawn().unwrap()
}

/// The child must not outlive a test that was killed.
pub(crate) fn die_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: prctl with these arguments touches no memory.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: the closure calls one async-signal-safe function and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Certificates for 127.0.0.1, made by `openssl`: (authority = certificate, key).
pub(crate) fn certificate(folder: &Path) -> Option<(String, String)> {
    if !is_installed("openssl") {
        return None;
    }
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some((certificate.display().to_string(), key.display().to_string()))
}

/// How a service with TLS treats its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    Any,
    /// Only those with a certificate of the test's own authority.
    Certified,
}

/// Files that a client of a service with TLS is configured with: authority, certificate, key. The
/// certificate of the service is its own authority, and that of its clients.
pub(crate) fn tls_files(server: &Server) -> (String, String, String) {
    let file = |name: &str| server.folder.path().join(name).display().to_string();
    (file("cert.pem"), file("cert.pem"), file("key.pem"))
}

pub(crate) fn etcd(tls: bool) -> Option<Server> {
    start_etcd(tls.then_some(Clients::Any))
}

pub(crate) fn start_etcd(tls: Option<Clients>) -> Option<Server> {
    if !is_installed("etcd") {
        skipped("etcd", "the program etcd is not installed");
        return None;
    }
    let folder = Folder::new();
    let (port, peer_port) = (free_port(), free_port());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut arguments = vec![
        "--name=one".to_owned(),
        format!("--data-dir={}", folder.path().join("data").display()),
        format!("--listen-client-urls={scheme}://127.0.0.1:{port}"),
        format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
        format!("--initial-cluster=one=http://127.0.0.1:{peer_port}"),
        "--log-level=warn".to_owned(),
    ];
    if let Some(clients) = tls {
        let Some((certificate, key)) = certificate(folder.path()) else {
            skipped("etcd with TLS", "the program openssl is not installed");
            return None;
        };
        arguments.push(format!("--cert-file={certificate}"));
        arguments.push(format!("--key-file={key}"));
        if clients == Clients::Certified {
            arguments.push("--client-cert-auth".to_owned());
            arguments.push(format!("--trusted-ca-file={certificate}"));
        }
    }
    let unsupported = ("ETCD_UNSUPPORTED_ARCH".to_owned(), std::env::consts::ARCH.to_owned());
    Some(Server::start("etcd", arguments, vec![unsupported], folder, port))
}

pub(crate) fn redis(extra: &[&str]) -> Option<Server> {
    start_redis(free_port(), Folder::new(), extra, false)
}

pub(crate) fn redis_tls(clients: Clients) -> Option<Server> {
    let folder = Folder::new();
    let Some((certificate, key)) = certificate(folder.path()) else {
        skipped("redis with TLS", "the program openssl is not installed");
        return None;
    };
    let port = free_port();
    let tls_port = port.to_string();
    let extra = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &certificate,
        "--tls-auth-clients",
        if clients == Clients::Certified { "yes" } else { "no" },
    ];
    start_redis(port, folder, &extra, true)
}

fn start_redis(port: u16, folder: Folder, extra: &[&str], tls: bool) -> Option<Server> {
    if !is_installed("redis-server") {
        skipped("redis", "the program redis-server is not installed");
        return None;
    }
    let plain_port = if tls { 0 } else { port };
    let mut arguments: Vec<String> =
        ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(str::to_owned).to_vec();
    arguments.extend(["--port".to_owned(), plain_port.to_string()]);
    arguments.extend(extra.iter().map(|text| text.to_string()));
    Some(Server::start("redis-server", arguments, Vec::new(), folder, port))
}

/// Upstream's own server, out of the cached wheel of `version`.
pub(crate) fn upstream_http(version: &str) -> Option<Server> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/peers");
    let what = format!("upstream's HTTP server {version}");
    let entries = std::fs::read_dir(&cache).into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let named = |start: &str| {
        folders.iter().find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        })
    };
    let Some(wheel) = named(&format!("{version}-")) else {
        skipped(&what, "its wheel is not in .cache/peers");
        return None;
    };
    let library = named("aiohttp-").map(|path| path.display().to_string()).unwrap_or_default();
    let environment = vec![("PYTHONPATH".to_owned(), library)];
    let has_library = Command::new("python3")
        .args(["-c", "import aiohttp"])
        .envs(environment.iter().cloned())
        .stderr(Stdio::null())
        .status();
    if !has_library.is_ok_and(|status| status.success()) {
        skipped(&what, "python3 has no aiohttp, nor is it in .cache/peers");
        return None;
    }
    let script = wheel.join("mooncake/http_metadata_server.py").display().to_string();
    let port = free_port();
    let arguments =
        [&script, "--host", "127.0.0.1", "--port", &port.to_string()].map(str::to_owned).to_vec();
    Some(Server::start("python3", arguments, environment, Folder::new(), port))
}

/// An HTTP service behind TLS.
pub(crate) fn https(clients: Clients) -> Option<Server> {
    let what = "an HTTP service with TLS";
    if !is_installed("python3") {
        skipped(what, "the program python3 is not installed");
        return None;
    }
    let folder = Folder::new();
    let Some((certificate, key)) = certificate(folder.path()) else {
        skipped(what, "the program openssl is not installed");
        return None;
    };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance_metadata");
    let script = tests.join("https_server.py").display().to_string();
    let port = free_port();
    let mut arguments = vec![script, port.to_string(), certificate.clone(), key];
    if clients == Clients::Certified {
        arguments.push(certificate);
    }
    Some(Server::start("python3", arguments, Vec::new(), folder, port))
}

/// Our own server as the program that users start.
pub(crate) fn own_http(extra: &[&str]) -> Server {
    let port = free_port();
    let mut arguments =
        ["--host", "127.0.0.1", "--port", &port.to_string()].map(str::to_owned).to_vec();
    arguments.extend(extra.iter().map(|text| text.to_string()));
    let program = env!("CARGO_BIN_EXE_mooncake_http_metadata_server");
    Server::start(program, arguments, Vec::new(), Folder::new(), port)
}
