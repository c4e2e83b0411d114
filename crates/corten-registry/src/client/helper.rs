//! Credential helpers: `docker-credential-NAME get|store|erase`, spoken to over standard input and output.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use corten_types::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::credentials::Login;
use super::secret::Secret;
use super::url::shown;

/// Most that a helper may say, bytes.
const OUTPUT_SIZE_BYTES_MAX: u64 = 64 * 1024;
/// Longest time a helper may take; it may ask its user.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Where helpers are found and what they see.
#[derive(Clone, Default)]
pub struct Helpers {
    /// The directories of PATH.
    pub directories: Vec<PathBuf>,
    /// Their environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl std::fmt::Debug for Helpers {
    /// The environment may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helpers").field("directories", &self.directories).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helpers {
    /// The login that helper `name` keeps for `server`.
    pub(crate) fn get(&self, name: &str, server: &str) -> Result<Option<Login>> {
        let (succeeded, output) = self.run(name, "get", server.as_bytes())?;
        if !succeeded {
            let words = String::from_utf8_lossy(&output);
            // The protocol's words for "nothing is kept".
            if words.contains("credentials not found in native keychain") {
                return Ok(None);
            }
            return Err(failed(name, "get", words.trim()));
        }
        let wrong = || failed(name, "get", "its reply is not what the protocol asks for");
        let reply: Reply = serde_json::from_slice(&output).map_err(|_| wrong())?;
        if reply.secret.is_empty() {
            return Ok(None);
        }
        let secret = Secret::new(reply.secret);
        Ok(Some(match reply.username.as_str() {
            "<token>" => Login::IdentityToken(secret),
            _ => Login::Password { user: reply.username, password: secret },
        }))
    }

    /// Gives helper `name` a login to keep.
    pub(crate) fn store(&self, name: &str, server: &str, login: &Login) -> Result<()> {
        let (user, secret) = match login {
            Login::Password { user, password } => (user.as_str(), password),
            Login::IdentityToken(token) | Login::RegistryToken(token) => ("<token>", token),
        };
        let message = serde_json::json!({"ServerURL": server, "Username": user, "Secret": secret.reveal()});
        let (succeeded, output) = self.run(name, "store", message.to_string().as_bytes())?;
        let words = String::from_utf8_lossy(&output);
        if succeeded { Ok(()) } else { Err(failed(name, "store", words.trim())) }
    }

    /// Lets helper `name` forget a login.
    pub(crate) fn erase(&self, name: &str, server: &str) -> Result<()> {
        let (succeeded, output) = self.run(name, "erase", server.as_bytes())?;
        let words = String::from_utf8_lossy(&output);
        if succeeded { Ok(()) } else { Err(failed(name, "erase", words.trim())) }
    }

    fn run(&self, name: &str, verb: &str, input: &[u8]) -> Result<(bool, Vec<u8>)> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(fits) {
            return Err(Error::invalid(format!("`{}` is not the name of a credential helper", shown(name))));
        }
        let program = format!("docker-credential-{name}");
        let path = self.directories.iter().map(|directory| directory.join(&program)).find(|path| path.is_file());
        let Some(path) = path else {
            return Err(Error::new(ErrorKind::NotFound, format!("the credential helper `{program}` is not on PATH"))
                .hint("install it, or take it out of `credsStore` and `credHelpers` in config.json"));
        };
        let mut command = Command::new(path);
        command.arg(verb).env_clear().envs(self.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| failed(name, verb, "it cannot be started").caused_by(error))?;
        let input = input.to_vec();
        let (pipe, output) = (child.stdin.take(), child.stdout.take());
        let (sender, receiver) = channel();
        let reader = std::thread::spawn(move || {
            if let Some(mut pipe) = pipe {
                // One that reads no input has its reasons.
                let _written = pipe.write_all(&input);
            }
            let mut content = Vec::new();
            let read = output.map(|output| output.take(OUTPUT_SIZE_BYTES_MAX + 1).read_to_end(&mut content));
            // The receiver may have given up.
            let _sent = sender.send(read.is_some_and(|read| read.is_ok()).then_some(content));
        });
        let content = receiver.recv_timeout(TIME_MAX);
        let result = match content {
            Ok(Some(content)) if content.len() as u64 <= OUTPUT_SIZE_BYTES_MAX => {
                let status = child.wait().map_err(|error| failed(name, verb, "it is gone").caused_by(error))?;
                Ok((status.success(), content))
            }
            Ok(_) => Err(failed(name, verb, "its output is larger than 64 KiB")),
            Err(_) => Err(failed(name, verb, "it did not end within 60 seconds")),
        };
        if result.is_err() {
            end(&mut child);
        }
        // It ends with the helper's output.
        drop(reader);
        result
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _killed = child.kill();
    let _reaped = child.wait();
}

fn failed(name: &str, verb: &str, why: &str) -> Error {
    let message = format!("the credential helper `docker-credential-{name} {verb}` failed");
    Error::new(ErrorKind::Internal, message).caused_by(Error::new(ErrorKind::Internal, shown(why)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn helpers(script: &str) -> (tempfile::TempDir, Helpers) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let environment = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let helpers = Helpers { directories: vec![directory.path().to_owned()], environment };
        (directory, helpers)
    }

    #[test]
    fn a_helper_gives_what_it_keeps() {
        let (_directory, helpers) = helpers(
            r#"read s; case "$1$s" in
               gethost) echo '{"ServerURL":"host","Username":"me","Secret":"pw"}';;
               gettok) echo '{"Username":"<token>","Secret":"t"}';;
               getnone) echo 'credentials not found in native keychain'; exit 1;;
               getbad) echo '[1]';;
               getloud) yes;;
               *) echo "no"; exit 1;; esac"#,
        );
        let login = helpers.get("test", "host").unwrap();
        assert!(matches!(login, Some(Login::Password { user, password }) if user == "me" && password.reveal() == "pw"));
        assert!(matches!(helpers.get("test", "tok").unwrap(), Some(Login::IdentityToken(_))));
        assert!(helpers.get("test", "none").unwrap().is_none());
        for (server, why) in [("bad", "not what the protocol"), ("loud", "larger than 64 KiB"), ("x", ": no")] {
            let error = helpers.get("test", server).unwrap_err().one_line();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_helper_s_name_is_no_path() {
        for name in ["../../bin/sh", "", "a b", "x/y", "..", "a\n"] {
            assert!(Helpers::default().get(name, "x").unwrap_err().message().contains("not the name"), "{name:?}");
        }
        assert_eq!(Helpers::default().get("nowhere", "x").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
