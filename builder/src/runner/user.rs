//! The user of an image's config: [`Identity`].

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::RunnerError;
use super::error::UserProblem;

/// Larger account files are not read.
const FILE_BYTES: u64 = 1 << 20;

/// As whom a container's program runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Home folder according to the image's `/etc/passwd`.
    pub home: Option<String>,
}

impl Identity {
    /// Reads what `root` says about the user of a config; none is root, as everywhere.
    pub fn load(root: &Path, user: Option<&str>) -> Result<Self, RunnerError> {
        let user = user.unwrap_or_default();
        let read = |name| read_inside(root, name).unwrap_or_default();
        Self::parse(user, &read("etc/passwd"), &read("etc/group"))
            .map_err(|reason| RunnerError::User { found: user.to_owned(), reason })
    }

    /// Resolves `uid`, `uid:gid`, `name` or `name:group`. A number needs no line in either file; its group is then 0.
    fn parse(user: &str, passwd: &str, group: &str) -> Result<Self, UserProblem> {
        let (name, group_name) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        if group_name == Some("") || (name.is_empty() && group_name.is_some()) {
            return Err(UserProblem::Malformed);
        }
        let name = if name.is_empty() { "0" } else { name };
        let number = |text: &str| -> Result<Option<u32>, UserProblem> {
            match text.parse() {
                // The last number is how the kernel writes "leave as it is".
                Ok(u32::MAX) => Err(UserProblem::Malformed),
                Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(number)),
                _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(UserProblem::Malformed),
                _ => Ok(None),
            }
        };
        let id = number(name)?;
        let fields = |line: &str, count| {
            let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            (fields.len() >= count).then_some(fields)
        };
        let line = passwd.lines().filter_map(|line| fields(line, 6)).find(|fields| match id {
            Some(id) => fields[2].parse() == Ok(id),
            None => fields[0] == name,
        });
        let uid = match (&line, id) {
            (_, Some(id)) => id,
            (Some(fields), None) => fields[2].parse().map_err(|_| UserProblem::UnknownUser)?,
            (None, None) => return Err(UserProblem::UnknownUser),
        };
        let gid = match group_name {
            None => line.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0),
            Some(text) => match number(text)? {
                Some(number) => number,
                None => group
                    .lines()
                    .filter_map(|line| fields(line, 3))
                    .find(|fields| fields[0] == text)
                    .and_then(|fields| fields[2].parse().ok())
                    .ok_or(UserProblem::UnknownGroup)?,
            },
        };
        Ok(Self { uid, gid, home: line.map(|fields| fields[5].clone()).filter(|home| home.starts_with('/')) })
    }
}

/// Reads a small text file of the image; links in it cannot lead out of `root`.
fn read_inside(root: &Path, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let file = rustix::fs::openat2(&root, name, flags | OFlags::NONBLOCK, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let mut text = Vec::new();
    std::fs::File::from(file).take(FILE_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody\nserve:x:65532:65533::/home/serve:\nodd:x:q:1::/:\n";
    const GROUP: &str = "root:x:0:\nmodels:x:77:serve\n";

    fn ids(user: &str) -> Result<(u32, u32), UserProblem> {
        Identity::parse(user, PASSWD, GROUP).map(|identity| (identity.uid, identity.gid))
    }

    #[test]
    fn numbers_and_names_are_resolved_as_engines_do() {
        assert_eq!(ids(""), Ok((0, 0)));
        assert_eq!(ids("1000"), Ok((1000, 0)));
        assert_eq!(ids("65532"), Ok((65532, 65533)));
        assert_eq!(ids("65532:65532"), Ok((65532, 65532)));
        assert_eq!(ids("serve"), Ok((65532, 65533)));
        assert_eq!(ids("serve:models"), Ok((65532, 77)));
        assert_eq!(ids("5:models"), Ok((5, 77)));
        assert_eq!(Identity::parse("serve", PASSWD, "").expect("known").home.as_deref(), Some("/home/serve"));
    }

    #[test]
    fn unknown_and_malformed_users_are_refused() {
        assert_eq!(ids("ghost"), Err(UserProblem::UnknownUser));
        assert_eq!(ids("odd"), Err(UserProblem::UnknownUser));
        assert_eq!(ids("serve:ghosts"), Err(UserProblem::UnknownGroup));
        for bad in [":", "1:", ":1", "4294967295", "99999999999", "1:99999999999"] {
            assert_eq!(ids(bad), Err(UserProblem::Malformed), "{bad}");
        }
    }

    #[test]
    fn account_files_cannot_lead_out_of_the_root() {
        let folder = tempfile::tempdir().expect("scratch");
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("scratch");
        std::fs::write(folder.path().join("secret"), "serve:x:1:1::/:\n").expect("scratch");
        std::os::unix::fs::symlink("../../secret", root.join("etc/passwd")).expect("scratch");
        assert!(Identity::load(&root, Some("serve")).is_err());
        std::fs::write(root.join("accounts"), PASSWD).expect("scratch");
        std::fs::remove_file(root.join("etc/passwd")).expect("scratch");
        std::os::unix::fs::symlink("/accounts", root.join("etc/passwd")).expect("scratch");
        assert_eq!(Identity::load(&root, Some("serve")).expect("found").uid, 65532);
    }
}
