//! Placeholders of secrets in a cell, and canaries: variables of its runtime, and files of a directory of ours that it can read.
//!
//! The names come in a message, so they are of types that hold no name on which a program acts; the texts are made
//! here from digests. The threat: a control that was taken over and would have a runtime told something else.

use super::effects::failure;
use crate::{
    config::{AbsolutePath, Bind},
    data::{DataDir, Planted},
    runtime::RuntimePlan,
};
use cofferdam_base::{
    binding::PLACEHOLDERS,
    canary::CANARIES,
    ipc::launcher::{CellOrder, Failure, Placeholder},
};

/// Adds what an order says to what runs. The files of an earlier start are gone afterwards.
pub(super) fn show(data: &DataDir, order: &CellOrder, runtime: &mut RuntimePlan) -> Result<(), Failure> {
    for (kind, target) in [(Planted::Placeholders, PLACEHOLDERS), (Planted::Canaries, CANARIES)] {
        let own = |one: &&Placeholder| one.canary.is_some() == (kind == Planted::Canaries);
        let all = order.placeholders.iter().filter(own);
        let files: Vec<_> = all.filter_map(|one| Some((one.file.as_ref()?.as_str(), one.text()))).collect();
        let directory =
            data.plant(&order.tenant, kind, &files).map_err(|error| failure(error.to_string()))?;
        if let Some(directory) = directory {
            let path = |path: std::path::PathBuf| AbsolutePath::try_from(path).map_err(failure);
            runtime.binds.push(Bind { source: path(directory)?, target: path(target.into())? });
        }
    }
    for one in &order.placeholders {
        let Some(name) = &one.env else { continue };
        if runtime.env.iter().any(|(known, _)| known == name.as_str()) {
            return Err(Failure {
                message: format!("the runtime has a variable {name} of its own, which no placeholder takes"),
                mend: "set the secret with another --env".to_owned(),
            });
        }
        runtime.env.push((name.to_string(), one.text()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::double::{order, tenant};
    use super::*;
    use crate::data::Owners;
    use cofferdam_base::{Digest, binding::placeholder, canary::Like};

    #[test]
    fn variables_and_files_are_added_and_none_that_is_there_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::create(&dir.path().join("data"), Owners::OneUser).unwrap();
        data.make_tenant(&tenant("acme"), 0).unwrap();
        let runtime = || RuntimePlan {
            argv: vec![],
            env: vec![("TAKEN".to_owned(), "x".to_owned())],
            binds: vec![],
            port: 80,
        };
        let digest = Digest::from_bytes([3; 32]);
        let named = |env: Option<&str>, file: Option<&str>| {
            let env = env.map(|name| name.parse().unwrap());
            let file = file.map(|name| name.parse().unwrap());
            let placeholders = vec![Placeholder { digest, env, file, canary: None }];
            CellOrder { placeholders, ..order("acme", 2, 1) }
        };
        let mut plan = runtime();
        show(&data, &named(Some("TOKEN"), Some("token")), &mut plan).unwrap();
        assert_eq!(plan.env[1], ("TOKEN".to_owned(), placeholder(&digest)));
        let written = std::fs::read_to_string(plan.binds[0].source.as_path().join("token")).unwrap();
        assert_eq!(written, placeholder(&digest));
        let refused = show(&data, &named(Some("TAKEN"), None), &mut runtime()).unwrap_err();
        assert!(refused.message.contains("TAKEN"), "{refused:?}");

        let mut baited = named(Some("BAIT"), Some("aws"));
        baited.placeholders[0].canary = Some(Like::Aws);
        let mut plan = runtime();
        show(&data, &baited, &mut plan).unwrap();
        let text = Like::Aws.text(&digest);
        assert_eq!(plan.env[1], ("BAIT".to_owned(), text.clone()));
        let [Bind { source, target }] = &plan.binds[..] else { panic!("{plan:?}") };
        assert_eq!(target.as_path(), std::path::Path::new(CANARIES));
        assert_eq!(std::fs::read_to_string(source.as_path().join("aws")).unwrap(), text);

        let mut plan = runtime();
        show(&data, &order("acme", 2, 1), &mut plan).unwrap();
        assert_eq!(plan, runtime(), "nothing of an earlier start");
        show(&data, &named(None, Some("token")), &mut runtime()).unwrap();
        data.forget_tenant(&tenant("acme")).unwrap();
        let left = std::fs::read_dir(data.tenant(&tenant("acme"))).unwrap().flatten();
        assert_eq!(left.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["home"]);
    }
}
