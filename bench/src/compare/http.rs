//! nginx and wrk.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::workload::{Measure, Unit, Workload};
use crate::error::{IoContext, on};
use crate::{Error, Result, tool};

/// Connections that wrk keeps busy.
const CONNECTIONS: u32 = 16;

/// Bytes of the file.
const SIZE: usize = 1024;

/// A small file over HTTP.
#[derive(Debug)]
pub(super) struct Http {
    dir: TempDir,
    /// One request a connection.
    close: bool,
    seconds: u32,
}

impl Http {
    /// Writes the file to serve.
    pub(super) fn new(close: bool, seconds: u32) -> Result<Self> {
        let dir = tempfile::tempdir().action(|| "create a temporary directory")?;
        let file = dir.path().join("file");
        fs::write(&file, vec![b'x'; SIZE]).action(on("write", &file))?;
        Ok(Self { dir, close, seconds })
    }
}

impl Workload for Http {
    fn measures(&self) -> Vec<Measure> {
        let connection = if self.close {
            "Connection: close"
        } else {
            "keep-alive"
        };
        vec![Measure {
            name: format!("nginx 1 KiB, {CONNECTIONS} conn., {connection}"),
            unit: Unit::PerSecond,
        }]
    }

    fn tools(&self) -> &'static [&'static str] {
        &["nginx", "wrk"]
    }

    fn server(&self, address: SocketAddr, _verify: bool) -> Result<Command> {
        let dir = self.dir.path();
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(&dir.display().to_string(), address))
            .action(on("write", &config))?;
        let mut command = tool::command("nginx");
        // -e: nginx otherwise complains about its own log directory before it has read the configuration.
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(config);
        Ok(command)
    }

    fn client(&self, address: SocketAddr, _verify: bool) -> Command {
        let mut command = tool::command("wrk");
        command
            .args([
                "-t",
                "1",
                "-c",
                &CONNECTIONS.to_string(),
                "-d",
                &format!("{}s", self.seconds),
            ])
            .arg(format!("http://{address}/file"));
        if self.close {
            command.args(["-H", "Connection: close"]);
        }
        command
    }

    fn values(&self, stdout: &str) -> Result<Vec<f64>> {
        let wrong = |detail: String| Error::Output {
            program: "wrk".to_owned(),
            detail,
        };
        for errors in ["Non-2xx", "Socket errors"] {
            if let Some(line) = stdout.lines().find(|line| line.contains(errors)) {
                return Err(wrong(line.trim().to_owned()));
            }
        }
        stdout
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
            .map(|rate| vec![rate])
            .ok_or_else(|| wrong(format!("no Requests/sec in {stdout:?}")))
    }
}

/// One worker, as there is one wrk thread; `user root`, because the files are in root's temporary directory.
fn configuration(dir: &str, address: SocketAddr) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("    {module}_temp_path {dir}/{module};\n"))
        .concat();
    format!(
        "user root;\n\
         daemon off;\n\
         worker_processes 1;\n\
         pid {dir}/nginx.pid;\n\
         error_log stderr crit;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}    \
             access_log off;\n    \
             sendfile on;\n    \
             tcp_nopush on;\n    \
             keepalive_requests 100000000;\n    \
             server {{ listen {address} backlog=4096; root {dir}; }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_errors_seen() {
        let workload = Http::new(true, 1).unwrap();
        let text = "  123 requests in 1.00s, 1MB read\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(workload.values(text).unwrap(), [12_345.67]);
        let errors = format!("  Socket errors: connect 0, read 7, write 0, timeout 0\n{text}");
        assert!(
            workload
                .values(&errors)
                .unwrap_err()
                .to_string()
                .contains("read 7")
        );
        assert!(workload.values("").is_err());
    }

    #[test]
    fn ipv6_addresses_are_bracketed() {
        let text = configuration("/d", "[fd00::1]:80".parse().unwrap());
        assert!(text.contains("listen [fd00::1]:80 backlog"), "{text}");
    }
}
