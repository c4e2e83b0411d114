//! `corten inspect`

use std::path::Path;

use corten_docker::inspect::{self, Host};
use corten_docker::template::{Template, Value};
use corten_engine::Engine;
use corten_types::image_spec::Platform;
use corten_types::{Error, ErrorKind, Result};

use super::{Context, WRONG_TEMPLATE, platform};
use crate::Failure;
use crate::command_line::Parsed;

/// What a name may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Container,
    Image,
}

/// Shows containers and images.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let wanted = match parsed.last("type") {
        None | Some("") => Wanted::Any,
        Some("container") => Wanted::Container,
        Some("image") => Wanted::Image,
        Some(other) => {
            return Err(Error::invalid(format!("{} is not a valid value for --type", corten_docker::quote(other)))
                .hint("use `container` or `image`")
                .into());
        }
    };
    show(context, parsed, wanted)
}

/// Shows containers.
pub(crate) fn containers(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    show(context, parsed, Wanted::Container)
}

/// Shows images.
pub(crate) fn images(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    show(context, parsed, Wanted::Image)
}

/// What is found is shown, what is not is reported after it.
fn show(context: &mut Context<'_>, parsed: &Parsed, wanted: Wanted) -> Result<u8, Failure> {
    let format = parsed.last("format").filter(|format| !format.is_empty() && *format != "json");
    let template = format.map(|format| Template::parse("", format)).transpose();
    let template = template.map_err(|error| Failure::with_code(error, WRONG_TEMPLATE))?;
    let platform = match wanted {
        Wanted::Image => platform(parsed)?,
        _ => None,
    };
    let engine = context.engine()?;
    let host = Host { driver: "overlay", has_cgroup2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists() };
    let has_sizes = wanted != Wanted::Image && parsed.is_on("size");
    let mut documents = Vec::new();
    let mut code = 0;
    for name in &parsed.operands {
        match find(&engine, name, wanted, platform.as_ref(), host, has_sizes) {
            Ok(document) => documents.push(document),
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    let text = match (&template, parsed.last("format")) {
        (Some(template), _) => render(template, &documents)?,
        (None, Some("json")) => Value::list(documents).to_json() + "\n",
        (None, _) => Value::list(documents).to_json_pretty("    ") + "\n",
    };
    context.print(&text)?;
    Ok(code)
}

fn render(template: &Template, documents: &[Value]) -> Result<String> {
    let mut text = String::new();
    for document in documents {
        text.push_str(&template.render(document)?);
        text.push('\n');
    }
    // Docker prints an empty line for nothing at all.
    Ok(if documents.is_empty() { "\n".to_owned() } else { text })
}

fn find(
    engine: &Engine,
    name: &str,
    wanted: Wanted,
    platform: Option<&Platform>,
    host: Host<'_>,
    has_sizes: bool,
) -> Result<Value> {
    if wanted != Wanted::Image {
        match engine.container(name.trim_start_matches('/')) {
            Ok(container) => {
                let sizes = match has_sizes {
                    true => {
                        let written = engine.written_bytes(&container)?;
                        Some((written, engine.image_bytes(&container) + written))
                    }
                    false => None,
                };
                return Ok(inspect::container(&container, host, sizes));
            }
            Err(error) if error.kind() != ErrorKind::NotFound || wanted == Wanted::Container => return Err(error),
            Err(_) => {}
        }
    }
    match engine.store().resolve_platform(name, platform) {
        Ok(image) => Ok(inspect::image(&image, host)),
        Err(error) if wanted == Wanted::Any && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
            Err(Error::new(ErrorKind::NotFound, format!("No such object: {name}"))
                .hint("`corten ps -a` lists containers, `corten images` lists images"))
        }
        Err(error) => Err(error),
    }
}
