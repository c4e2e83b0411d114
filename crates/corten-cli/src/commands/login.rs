//! `corten login` and `corten logout`

use std::io::{BufRead, Read};

use corten_registry::client::Secret;
use corten_registry::client::credentials::{DOCKER_HUB_SERVER, Kept};
use corten_types::{Context as _, Error, Result};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::registries;
use crate::terminal::is_terminal;

/// Longest user name or password, bytes.
const LENGTH_MAX: u64 = 64 * 1024;

/// Tries a user name and a password at a registry and keeps them.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let host = host(parsed)?;
    let from_stdin = parsed.is_on("password-stdin");
    let given = |name: &str| parsed.last(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let (user, password) = (given("username"), given("password"));
    if password.is_some() {
        context.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if from_stdin {
            return Err(Error::invalid("--password and --password-stdin are mutually exclusive").into());
        }
    }
    if from_stdin && user.is_none() {
        return Err(Error::invalid("Must provide --username with --password-stdin").into());
    }
    let terminal = is_terminal(rustix::stdio::stdin());
    if !terminal && (user.is_none() || (password.is_none() && !from_stdin)) {
        return Err(Error::invalid("Cannot perform an interactive login from a non TTY device")
            .hint("give `--username` and `--password-stdin`")
            .into());
    }
    let user = match user {
        Some(user) => user,
        None => prompt(context, "Username: ")?,
    };
    if user.is_empty() {
        return Err(Error::invalid("Error: Non-null Username Required").into());
    }
    let password = match password {
        Some(password) => password,
        None if from_stdin => whole_input()?,
        None => without_echo(context)?,
    };
    if password.is_empty() {
        return Err(Error::invalid("password is empty").into());
    }
    let client = registries::client(context.environment, parsed)?;
    if let Kept::File(path) = client.login(&host, &user, Secret::new(password))? {
        context.warn(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            path.display()
        ));
    }
    context.print("Login Succeeded\n")?;
    Ok(0)
}

/// Forgets a login.
pub(crate) fn logout(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let host = host(parsed)?;
    let shown = if host == "docker.io" { DOCKER_HUB_SERVER } else { &host };
    let text = match registries::credentials(context.environment).forget(&host)? {
        true => format!("Removing login credentials for {shown}\n"),
        false => format!("Not logged in to {shown}\n"),
    };
    context.print(&text)?;
    Ok(0)
}

/// `HOST[:PORT]`: Docker Hub's where none is named; of a URL the part that is one.
fn host(parsed: &Parsed) -> Result<String> {
    let Some(server) = parsed.operands.first() else { return Ok("docker.io".to_owned()) };
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = bare.split('/').next().unwrap_or_default();
    if host.is_empty() {
        return Err(Error::invalid(format!("`{server}` is not a registry's `HOST[:PORT]`")));
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    })
}

fn prompt(context: &mut Context<'_>, words: &str) -> Result<String> {
    // Where nothing can be shown, something can still be typed.
    let _shown = context.err.write_all(words.as_bytes());
    let mut line = String::new();
    std::io::stdin().lock().take(LENGTH_MAX).read_line(&mut line).context(|| "cannot read standard input")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// A line that the terminal does not show; it shows again afterwards, however this ends.
fn without_echo(context: &mut Context<'_>) -> Result<String> {
    struct Echo(rustix::termios::Termios);
    impl Drop for Echo {
        fn drop(&mut self) {
            // A terminal that is gone shows nothing.
            let _restored = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
        }
    }
    let before = tcgetattr(rustix::stdio::stdin())
        .map_err(std::io::Error::from)
        .context(|| "cannot read the terminal's mode")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let _echo = Echo(before);
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &silent)
        .map_err(std::io::Error::from)
        .context(|| "cannot silence the terminal")?;
    let password = prompt(context, "Password: ");
    context.warn("");
    password
}

fn whole_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().take(LENGTH_MAX).read_to_string(&mut text).context(|| "cannot read standard input")?;
    Ok(text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned())
}
