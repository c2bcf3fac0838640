//! `WWW-Authenticate`: what a registry wants to see.

/// One challenge of a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from the server at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads all challenges of all headers that this client can meet; unknown schemes and broken parts are passed over.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    headers.into_iter().flat_map(parse_one).collect()
}

fn parse_one(header: &str) -> Vec<Challenge> {
    let mut raw: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (word, after) = take_token(rest);
        if word.is_empty() {
            // No character that can begin anything: skip it.
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str();
            continue;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=').map(|value| value.trim_start_matches([' ', '\t']));
        match (value, raw.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = take_value(value);
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(value), None) => rest = take_value(value).1,
            (None, _) => {
                raw.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    raw.into_iter()
        .filter_map(|(scheme, parameters)| {
            let find = |name: &str| {
                parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
            };
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") }),
                _ => None,
            }
        })
        .collect()
}

fn take_token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c))).unwrap_or(text.len());
    text.split_at(end)
}

/// A quoted string, or all until the next comma or space.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
    }

    #[test]
    fn all_the_forms_that_registries_send_are_read() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.example.com/token", Some("registry"), Some("repository:a/b:pull,push"))],
            ),
            (r#"bearer  Realm = "https://a/t" , SCOPE="x""#, vec![bearer("https://a/t", None, Some("x"))]),
            ("BEARER realm=https://a/t?x=1,service=s", vec![bearer("https://a/t?x=1", Some("s"), None)]),
            (r#"Bearer realm="https://a/\"t\"",scope="""#, vec![bearer("https://a/\"t\"", None, None)]),
            (r#"BASIC realm="Registry Realm""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Basic realm="x, Bearer realm=y", Bearer realm="https://a/t",service="s""#,
                vec![Challenge::Basic, bearer("https://a/t", Some("s"), None)],
            ),
            (r#"Negotiate, Digest qop="auth", Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="https://a/unfinished"#, vec![bearer("https://a/unfinished", None, None)]),
            ("", vec![]),
            (r#"="x",,"#, vec![]),
        ] {
            assert_eq!(parse([header]), expected, "{header}");
        }
        assert_eq!(parse(["Basic", r#"Bearer realm="https://a""#]).len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(header in "\\PC{0,200}") {
            let _ = parse([header.as_str()]);
        }

        #[test]
        fn quoted_values_come_back(realm in "[ -~]{1,60}", scope in "[ -~]{1,60}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\",scope=\"{}\"", quote(&realm), quote(&scope));
            prop_assert_eq!(parse([header.as_str()]), vec![bearer(&realm, None, Some(&scope))]);
        }
    }
}
