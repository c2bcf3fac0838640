//! What the runtime's messages say was missing.

use std::path::PathBuf;

use crate::backend::LoadError;

/// Reads why the runtime refused a model.
pub(super) fn model(path: PathBuf, message: String) -> LoadError {
    LoadError::ModelRefused {
        path,
        operator: operator(&message),
        file: file(&message),
        locale: locale(&message),
        message: tidy(&message),
    }
}

/// The operator that a message is about, as `domain:Name`, or `Name` in the default domain.
fn operator(message: &str) -> Option<String> {
    // In Node, ("name", Operator, "domain", -1) : …
    if let Some((_, node)) = message.split_once("In Node, (\"") {
        let (_, rest) = node.split_once("\", ")?;
        let (name, rest) = rest.split_once(", \"")?;
        let (domain, _) = rest.split_once('"')?;
        return Some(if domain.is_empty() { name.to_owned() } else { format!("{domain}:{name}") });
    }
    // Fatal error: domain:Operator(-1) is not a registered function/op
    if let Some((before, _)) = message.split_once(" is not a registered function/op") {
        return word(before.rsplit("error: ").next()?);
    }
    // Could not find an implementation for Operator(13) node with name ''
    if let Some((_, after)) = message.split_once("find an implementation for ") {
        return word(after);
    }
    // … of operator (Operator) in node …
    if let Some((_, after)) = message.split_once("of operator (") {
        return after.split_once(')').map(|(name, _)| name.to_owned());
    }
    // Non-zero status code returned while running Operator node.
    if let Some((_, after)) = message.split_once("while running ") {
        return after.split_once(" node").map(|(name, _)| name.to_owned());
    }
    // …/core/providers/cpu/text/string_normalizer.cc:235 onnxruntime::StringNormalizer::Locale::Locale(…): a kernel's
    // class has the operator's name.
    let (_, place) = message.split_once("/core/providers/")?;
    let (_, class) = place.split_once(" onnxruntime::")?;
    let class = class.split_once("::")?.0;
    class.chars().all(char::is_alphanumeric).then(|| class.to_owned())
}

/// The locale that a message is about.
fn locale(message: &str) -> Option<String> {
    let (_, after) = message.split_once("Failed to construct locale with name:")?;
    after.split_once(':').map(|(name, _)| name.to_owned())
}

/// What stands before a bracket or a space.
fn word(text: &str) -> Option<String> {
    text.split(['(', ' ']).next().filter(|word| !word.is_empty()).map(ToOwned::to_owned)
}

/// The file that a message is about.
fn file(message: &str) -> Option<String> {
    let (_, after) = message.split_once("External data path does not exist: \"")?;
    after.split_once('"').map(|(file, _)| file.to_owned())
}

/// A message on one line.
pub(super) fn tidy(message: &str) -> String {
    message.trim().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALE: &str = "Exception during initialization: /onnxruntime_src/onnxruntime/core/providers/cpu/text/\
        string_normalizer.cc:235 onnxruntime::StringNormalizer::Locale::Locale(const std::string&)::<lambda()> \
        Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid";

    #[test]
    fn missing_locales_are_found() {
        assert_eq!(locale(LOCALE).as_deref(), Some("en_US.UTF-8"));
        assert_eq!(locale("Failed to construct locale with name:"), None);
    }

    #[test]
    fn operators_are_found_in_messages() {
        for (message, expected) in [
            (
                r#"This is an invalid model. In Node, ("", Nope, "", -1) : ("a": tensor(float),) -> ("b": tensor(float),) , Error No Op registered for Nope with domain_version of 20"#,
                Some("Nope"),
            ),
            (
                r#"This is an invalid model. In Node, ("n, \"x", Nope, "com.acme", -1) : Error No opset import for domain 'com.acme'"#,
                Some("com.acme:Nope"),
            ),
            ("Fatal error: com.acme:Nope(-1) is not a registered function/op", Some("com.acme:Nope")),
            ("Could not find an implementation for Abs(13) node with name ''", Some("Abs")),
            ("Type Error: Type 'tensor(string)' of input parameter (a) of operator (Abs) in node () is invalid.", Some("Abs")),
            ("Non-zero status code returned while running Div node. Name:''", Some("Div")),
            (LOCALE, Some("StringNormalizer")),
            ("Protobuf parsing failed.", None),
            ("In Node, (", None),
        ] {
            assert_eq!(operator(message).as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn missing_files_are_found() {
        let message = r#"Error: tensorprotoutils.cc:619 External data path does not exist: "/m/ext.bin""#;
        assert_eq!(file(message).as_deref(), Some("/m/ext.bin"));
    }
}
