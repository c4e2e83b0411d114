//! `docker system df`.

use corten_engine::DiskUsage;
use corten_types::Result;
use jiff::Timestamp;

use crate::table::{ListFormat, align, field, header};
use crate::template::Value;
use crate::units::{human_size, moment, since};

const TABLE: &str = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const GO_TYPE: &str = "*formatter.diskUsageImagesContext";

/// The text of `system df`: one row a kind of thing. Volumes and the build cache have nothing of their own yet.
pub fn summary(usage: &DiskUsage, format: Option<&str>) -> Result<String> {
    let active = usage.images.iter().filter(|(_, users)| *users > 0).count();
    let used: u64 =
        usage.images.iter().filter(|(_, users)| *users > 0).map(|(image, _)| image.size - image.shared).sum();
    let shared: u64 = match active {
        0 => 0,
        // What several images share stays as long as one of them is used.
        _ => usage.images_bytes.saturating_sub(usage.images.iter().map(|(image, _)| image.size - image.shared).sum()),
    };
    let images_free = usage.images_bytes.saturating_sub(used + shared);
    let running = usage.containers.iter().filter(|(container, _)| container.life.state.is_alive()).count();
    let containers: u64 = usage.containers.iter().map(|(_, size)| size).sum();
    let stopped = usage.containers.iter().filter(|(container, _)| !container.life.state.is_alive());
    let containers_free: u64 = stopped.map(|(_, size)| size).sum();
    let rows = [
        row("Images", usage.images.len(), active, usage.images_bytes, images_free),
        row("Containers", usage.containers.len(), running, containers, containers_free),
        row("Local Volumes", 0, 0, 0, 0),
        row("Build Cache", 0, 0, 0, 0),
    ];
    let format = match format {
        None | Some("" | "table") => TABLE,
        Some(custom) => custom,
    };
    ListFormat::parse(format)?.render(&titles(), &rows)
}

fn row(kind: &str, total: usize, active: usize, size: u64, free: u64) -> Value {
    let mut reclaimable = human_size(free, 4);
    if size > 0 && kind != "Build Cache" {
        reclaimable.push_str(&format!(" ({}%)", free.saturating_mul(100) / size));
    }
    Value::row(
        GO_TYPE,
        vec![
            field("Type", kind),
            field("TotalCount", total.to_string()),
            field("Active", active.to_string()),
            field("Size", human_size(size, 4)),
            field("Reclaimable", reclaimable),
        ],
    )
}

fn titles() -> Value {
    header(&[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ])
}

/// The text of `system df -v`: every image and container.
pub fn verbose(usage: &DiskUsage, now: Timestamp) -> String {
    let mut images = "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n".to_owned();
    for (usage, users) in &usage.images {
        let image = &usage.image;
        let created = image.config.created.as_deref().and_then(moment);
        let created = created.map_or_else(|| "N/A".to_owned(), |created| format!("{} ago", since(created, now)));
        let sizes = [usage.size, usage.shared, usage.size - usage.shared].map(|size| human_size(size, 4)).join("\t");
        let mut names: Vec<(String, String)> = image
            .repo_tags
            .iter()
            .map(|name| (name.familiar_repository(), name.tag().unwrap_or_default().to_owned()))
            .collect();
        if names.is_empty() {
            names.push(("<none>".to_owned(), "<none>".to_owned()));
        }
        for (repository, tag) in names {
            images.push_str(&format!("{repository}\t{tag}\t{}\t{created}\t{sizes}\t{users}\n", image.id.short()));
        }
    }
    let mut containers = "CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n".to_owned();
    for (container, size) in &usage.containers {
        let config = &container.config;
        let created = moment(&config.created).map_or_else(String::new, |created| since(created, now));
        containers.push_str(&format!(
            "{}\t{}\t\"{}\"\t0\t{}\t{created} ago\t{}\t{}\n",
            container.short_id(),
            config.image,
            config.args().join(" "),
            human_size(*size, 3),
            container.life.state,
            config.name,
        ));
    }
    let trimmed = |text: &str| align(text).lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\n\n\
         Build cache usage: 0B\n\nCACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n",
        trimmed(&images),
        trimmed(&containers),
    )
}
