//! Which user a container's process runs as: names of the image, or numbers. Pure, on the bytes of
//! the container's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

/// A user as a process has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups, each once: the group ID is one of them.
    pub additional: Vec<u32>,
}

/// Why a user cannot be found. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoSuchUser(String),
    /// No such name.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoSuchGroup(String),
    /// A number that no user can have.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// The user that `wanted`, `USER[:GROUP]`, means. As Docker's: a number need not be in the files, and
/// has group 0 then; the supplementary groups are those that name the user, unless a group is given.
/// The group itself is always one of them: else a set-group-ID program could get rid of it, and what is
/// denied to the group would be allowed (CVE-2022-36109).
pub fn resolve(wanted: &str, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group)) => (name, group),
        None => (wanted, ""),
    };
    let name = if name.is_empty() { "0" } else { name };
    // A name comes before the number that it may look like.
    let users = || passwd_lines(passwd);
    let number = number(name)?;
    let found = users()
        .find(|u| u.name == name.as_bytes())
        .or_else(|| users().find(|u| Some(u.uid) == number));
    let mut user = match (&found, number) {
        (Some(line), _) => User {
            uid: line.uid,
            gid: line.gid,
            additional: Vec::new(),
        },
        (None, Some(uid)) => User {
            uid,
            ..User::default()
        },
        (None, None) => return Err(UserError::NoSuchUser(name.to_owned())),
    };
    if group_name.is_empty() {
        let login = found.map(|line| line.name).unwrap_or_default();
        user.additional.push(user.gid);
        for line in group_lines(group) {
            let is_member = line.members.contains(&login);
            if !login.is_empty() && is_member && !user.additional.contains(&line.gid) {
                user.additional.push(line.gid);
            }
        }
        return Ok(user);
    }
    let by_name = group_lines(group).find(|g| g.name == group_name.as_bytes());
    user.gid = match (by_name, self::number(group_name)?) {
        (Some(line), _) => line.gid,
        (None, Some(gid)) => gid,
        (None, None) => return Err(UserError::NoSuchGroup(group_name.to_owned())),
    };
    user.additional.push(user.gid);
    Ok(user)
}

/// A decimal number that a user or group may have; `None` for what is a name.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    match text.parse::<i64>() {
        Ok(number) => match u32::try_from(number) {
            Ok(id) if id <= i32::MAX.cast_unsigned() => Ok(Some(id)),
            _ => Err(UserError::Range),
        },
        Err(_) => Ok(None),
    }
}

struct PasswdLine<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
}

/// Lines that are none are passed over, as the C library does.
fn passwd_lines(file: &[u8]) -> impl Iterator<Item = PasswdLine<'_>> {
    file.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        Some(PasswdLine {
            name: fields.next()?,
            uid: id(fields.nth(1)?)?,
            gid: id(fields.next()?)?,
        })
    })
}

struct GroupLine<'a> {
    name: &'a [u8],
    gid: u32,
    members: Vec<&'a [u8]>,
}

fn group_lines(file: &[u8]) -> impl Iterator<Item = GroupLine<'_>> {
    file.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        Some(GroupLine {
            name: fields.next()?,
            gid: id(fields.nth(1)?)?,
            members: fields.next()?.split(|b| *b == b',').collect(),
        })
    })
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# no line\nbroken:x\n\
        app:x:1000:1001::/home/app:/bin/sh\n42:x:7:8::/:\n\xff:x:9:9::/:\n";
    const GROUP: &[u8] = b"root:x:0:root\napp:x:1001:\nextra:x:2000:app,other\nmore:x:2001:app\n";

    #[test]
    fn users_and_groups() {
        let user = |uid, gid, additional: &[u32]| User {
            uid,
            gid,
            additional: additional.to_vec(),
        };
        for (wanted, found) in [
            ("", user(0, 0, &[0])),
            ("root", user(0, 0, &[0])),
            ("0", user(0, 0, &[0])),
            ("app", user(1000, 1001, &[1001, 2000, 2001])),
            ("1000", user(1000, 1001, &[1001, 2000, 2001])),
            ("5000", user(5000, 0, &[0])),
            // A name that looks like a number.
            ("42", user(7, 8, &[8])),
            ("app:extra", user(1000, 2000, &[2000])),
            ("app:77", user(1000, 77, &[77])),
            (":extra", user(0, 2000, &[2000])),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP), Ok(found), "{wanted}");
        }
        for (wanted, why) in [
            ("nosuch", UserError::NoSuchUser("nosuch".into())),
            ("broken", UserError::NoSuchUser("broken".into())),
            ("app:nosuch", UserError::NoSuchGroup("nosuch".into())),
            ("-1", UserError::Range),
            ("4294967295", UserError::Range),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP), Err(why), "{wanted}");
        }
        assert_eq!(resolve("", b"", b""), Ok(user(0, 0, &[0])));
        assert!(resolve("app", b"", b"").is_err());
    }
}
