//! Files that go with a message: what kind they are, and how they are told where a CLI takes text only.

use ace_policies::wire::Attachment;
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Message, Refused};

/// A file as a CLI may take it.
pub enum Kind<'a> {
    /// A picture.
    Image(&'a Attachment),
    /// A PDF.
    Document(&'a Attachment),
    /// Text, with the file's name around it.
    Text(String),
}

/// The files of a message; an error names the one that is of no use.
pub fn kinds(message: &Message) -> Result<Vec<Kind<'_>>, Refused> {
    message.attachments.iter().map(kind).collect()
}

fn kind(attachment: &Attachment) -> Result<Kind<'_>, Refused> {
    let refuse = |why: &str| Refused::Never(format!("the file `{}` cannot be sent: {why}", attachment.name));
    let bytes = STANDARD
        .decode(&attachment.data_base64)
        .map_err(|_| refuse("its content is not Base64"))?;
    match attachment.media_type.as_str() {
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => Ok(Kind::Image(attachment)),
        "application/pdf" => Ok(Kind::Document(attachment)),
        _ => String::from_utf8(bytes)
            .map(|text| Kind::Text(format!("<file name=\"{}\">\n{text}\n</file>", attachment.name)))
            .map_err(|_| refuse(&format!("no CLI takes {}", attachment.media_type))),
    }
}

/// For a CLI that takes no such files.
pub fn refuse(cli: &str, attachment: &Attachment) -> Refused {
    Refused::Never(format!(
        "the file `{}` cannot be sent: {cli} takes no {}",
        attachment.name, attachment.media_type
    ))
}
