//! Where copies of lists are kept unless the configuration says so.

use std::path::PathBuf;

use balancedns_core::config::{Host, ListCache};

/// The folder of the copies, if they are kept anywhere: one that the service manager has made for us,
/// else the user's own cache (the XDG base directory specification).
pub(super) fn of_copies(cache: &ListCache, host: &dyn Host) -> Option<PathBuf> {
    match cache {
        ListCache::Off => None,
        ListCache::Folder(folder) => Some(PathBuf::from(folder)),
        ListCache::Usual => usual(|name| host.variable(name)),
    }
}

fn usual(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // systemd.exec(5): several folders are apart by colons.
    let absolute = |name: &str| {
        let value = variable(name)?;
        let first = value.split(':').next()?;
        first.starts_with('/').then(|| PathBuf::from(first))
    };
    let of_service = || absolute("CACHE_DIRECTORY").or_else(|| absolute("STATE_DIRECTORY"));
    let of_user = || {
        let caches = absolute("XDG_CACHE_HOME");
        let caches = caches.or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        caches.map(|caches| caches.join("balancedns"))
    };
    of_service().or_else(of_user).map(|folder| folder.join("lists"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variable = (&'static str, &'static str);

    fn folder(variables: &[Variable]) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        usual(variable).map(|folder| folder.display().to_string())
    }

    #[test]
    fn a_service_has_its_folder_and_a_user_another() {
        let home = ("HOME", "/home/a");
        let xdg = ("XDG_CACHE_HOME", "/c");
        let state = ("STATE_DIRECTORY", "/var/lib/balancedns");
        let cache = ("CACHE_DIRECTORY", "/var/cache/balancedns:/other");
        let cases: [(&[Variable], _); 6] = [
            (&[], None),
            (&[("HOME", "relative"), ("XDG_CACHE_HOME", "")], None),
            (&[home], Some("/home/a/.cache/balancedns/lists")),
            (&[home, xdg], Some("/c/balancedns/lists")),
            (&[home, state], Some("/var/lib/balancedns/lists")),
            (&[home, state, cache], Some("/var/cache/balancedns/lists")),
        ];
        for (variables, expected) in cases {
            assert_eq!(folder(variables).as_deref(), expected);
        }
    }
}
