//! `--gpus` in CDI's names: `all`, `2`, `device=0,1`, `count=2`, `driver=nvidia`.

/// Whose GPUs are meant where nothing else is said.
const KIND: &str = "nvidia.com/gpu";
/// Most that a number may ask for.
const COUNT_MAX: u32 = 256;

/// The devices' names.
pub(crate) fn names(text: &str) -> Result<Vec<String>, String> {
    let mut devices: Vec<String> = Vec::new();
    let mut listing = false;
    let text = text.trim_matches('"');
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("device", id)) if !id.is_empty() => {
                devices.push(id.to_owned());
                listing = true;
                continue;
            }
            Some(("count", count)) => devices.extend(counted(count)?),
            Some(("driver", "nvidia" | "cdi" | "")) => {}
            Some((key, _)) => {
                return Err(format!("`{key}` is not supported: what a GPU needs is said by its CDI specification"));
            }
            // `device=0,1` goes on with bare words.
            None if listing && !word.is_empty() => {
                devices.push(word.to_owned());
                continue;
            }
            None => devices.extend(counted(word)?),
        }
        listing = false;
    }
    if devices.is_empty() {
        devices.push("all".to_owned());
    }
    Ok(devices.into_iter().map(|device| format!("{KIND}={device}")).collect())
}

fn counted(word: &str) -> Result<Vec<String>, String> {
    if word == "all" || word == "-1" {
        return Ok(vec!["all".to_owned()]);
    }
    match word.parse::<u32>() {
        Ok(count @ 1..=COUNT_MAX) => Ok((0..count).map(|index| index.to_string()).collect()),
        _ => Err(format!("invalid count ({word}): value must be either \"all\" or an integer from 1 to {COUNT_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_names() {
        let of = |text: &str| names(text).map(|names| names.join(" ").replace("nvidia.com/gpu=", ""));
        assert_eq!(of("all").as_deref(), Ok("all"));
        assert_eq!(of("2").as_deref(), Ok("0 1"));
        assert_eq!(of("\"device=0,GPU-7\"").as_deref(), Ok("0 GPU-7"));
        assert_eq!(of("count=1,driver=nvidia").as_deref(), Ok("0"));
        assert!(of("capabilities=compute").unwrap_err().contains("capabilities"));
        assert!(of("many").is_err() && of("0").is_err());
    }
}
