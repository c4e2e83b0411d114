//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, section 11).

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a service.
    Bearer {
        /// The token service.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
        /// `insufficient_scope`, `invalid_token`.
        error: Option<String>,
    },
}

/// Most of a header that is looked at, bytes.
const LENGTH_MAX: usize = 8192;

/// The challenges of one header that Corten knows how to answer, in order.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let header = &header[..header.floor_char_boundary(LENGTH_MAX)];
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let Some((scheme, after)) = token(rest) else { break };
        rest = after.trim_start();
        let mut parameters = Vec::new();
        while let Some((name, value, after)) = parameter(rest) {
            parameters.push((name.to_ascii_lowercase(), value));
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after.trim_start(),
                None => break,
            }
        }
        let mut take = |wanted: &str| {
            let place = parameters.iter().position(|(name, _)| name == wanted)?;
            Some(parameters.swap_remove(place).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            found.push(Challenge::Bearer {
                realm,
                service: take("service"),
                scope: take("scope"),
                error: take("error"),
            });
        }
        rest = rest.trim_start_matches([',', ' ']);
        // What is no token cannot be skipped safely.
        if token(rest).is_none() {
            break;
        }
    }
    found
}

fn token(text: &str) -> Option<(&str, &str)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `NAME=VALUE` or `NAME="VALUE"`, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((name, rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Some((name, value, &quoted[place + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope), error: None }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        assert_eq!(parse("Basic realm=\"Registry Realm\""), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#),
            [bearer("https://auth.example/token", Some("r.example"), Some("repository:a/b:pull,push"))]
        );
        assert_eq!(
            parse(r#"Negotiate, bearer  Realm = "https://x/\"y" , service=plain, Basic realm="x""#),
            [bearer("https://x/\"y", Some("plain"), None), Challenge::Basic]
        );
    }

    #[test]
    fn what_is_no_challenge_is_left_out() {
        for text in ["", ",", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"unclosed", "=x", "Digest realm=\"x\""] {
            assert_eq!(parse(text), [], "{text:?}");
        }
        parse(&"Basic ".repeat(5000));
    }
}
