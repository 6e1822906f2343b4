//! Pictures: SVG or PNG, by the name of the file; with their own font, for a machine may have none.

pub mod bars;
pub mod timeline;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

/// What drawing fails with.
pub type Failed = Box<dyn std::error::Error>;
/// A part of a picture.
pub type Area<DB> = DrawingArea<DB, Shift>;

/// The font of all text.
pub const FONT: &str = "sans-serif";
/// Colours of what is compared, in their order: Okabe and Ito's, which colour-blind people can tell apart.
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
];

/// Something to be drawn.
pub trait Picture {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);
    /// Draw it on a white ground.
    ///
    /// # Errors
    /// Of the backend.
    fn paint<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static;
}

/// For clap: a file whose name says what it is to be.
///
/// # Errors
/// Another suffix than `.svg` or `.png`.
pub fn picture_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match kind_of(&path) {
        Some(_) => Ok(path),
        None => Err("a picture is FILE.svg or FILE.png".to_owned()),
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Svg,
    Png,
}

fn kind_of(path: &Path) -> Option<Kind> {
    match path.extension().and_then(OsStr::to_str)? {
        "svg" => Some(Kind::Svg),
        "png" => Some(Kind::Png),
        _ => None,
    }
}

/// Draw into a file, which is there whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn draw(path: &Path, picture: &impl Picture) -> Result<(), String> {
    let failed = |e: Failed| format!("cannot draw {}: {e}", path.display());
    draw_whole(path, picture).map_err(failed)
}

fn draw_whole(path: &Path, picture: &impl Picture) -> Result<(), Failed> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        for (style, font) in [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ] {
            // It fails where the bytes are no font; then drawing text fails, and says so.
            register_font(FONT, style, font).unwrap_or_default();
        }
    });
    let (kind, suffix) = match kind_of(path) {
        Some(Kind::Png) => (Kind::Png, ".png"),
        _ => (Kind::Svg, ".svg"),
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let unfinished = tempfile::Builder::new()
        .prefix(".layerctl-")
        .suffix(suffix)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)?;
    match kind {
        Kind::Svg => {
            paint(
                SVGBackend::new(unfinished.path(), picture.size()).into_drawing_area(),
                picture,
            )?;
        }
        Kind::Png => {
            paint(
                BitMapBackend::new(unfinished.path(), picture.size()).into_drawing_area(),
                picture,
            )?;
        }
    }
    unfinished.persist(path)?;
    Ok(())
}

fn paint<DB: DrawingBackend>(area: Area<DB>, picture: &impl Picture) -> Result<(), Failed>
where
    DB::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    picture.paint(&area)?;
    area.present()?;
    Ok(())
}

/// A title above a part of a picture, and what is below it.
///
/// # Errors
/// Of the backend.
pub fn titled<DB: DrawingBackend>(area: &Area<DB>, title: &str) -> Result<Area<DB>, Failed>
where
    DB::ErrorType: 'static,
{
    let (head, rest) = area.split_vertically(34);
    head.draw(&Text::new(
        title.to_owned(),
        (14, 9),
        (FONT, 18, FontStyle::Bold),
    ))?;
    Ok(rest)
}

/// Small grey lines at the foot of a picture, and what is above them: of what machine it is, what was done.
///
/// # Errors
/// Of the backend.
pub fn footed<DB: DrawingBackend>(area: &Area<DB>, lines: &[String]) -> Result<Area<DB>, Failed>
where
    DB::ErrorType: 'static,
{
    const LINE: i32 = 16;
    let (_, height) = area.dim_in_pixel();
    let foot = i32::try_from(lines.len())? * LINE + 8;
    let (rest, foot) = area.split_vertically(i32::try_from(height)? - foot);
    for (line, n) in lines.iter().zip(0..) {
        let style = (FONT, 12).into_font().color(&BLACK.mix(0.6));
        foot.draw(&Text::new(line.clone(), (14, n * LINE), style))?;
    }
    Ok(rest)
}

/// Coloured squares with names in a row, and what is below it.
///
/// # Errors
/// Of the backend.
pub fn legend<DB: DrawingBackend>(
    area: &Area<DB>,
    names: &[(String, RGBColor)],
) -> Result<Area<DB>, Failed>
where
    DB::ErrorType: 'static,
{
    let (row, rest) = area.split_vertically(26);
    let mut x = 14;
    for (name, colour) in names {
        row.draw(&Rectangle::new([(x, 5), (x + 13, 18)], colour.filled()))?;
        row.draw(&Text::new(name.clone(), (x + 19, 5), (FONT, 13)))?;
        let width = (FONT, 13)
            .into_font()
            .box_size(name)
            .map_err(|e| e.to_string())?
            .0;
        x += 19 + i32::try_from(width)? + 22;
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bars::{Bar, Bars, Group};

    #[test]
    fn a_picture_is_what_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        let bar = |value: f64| Bar {
            value: Some(value),
            text: format!("{value}"),
        };
        let picture = Bars {
            title: "Ratios".to_owned(),
            axis: "ratio".to_owned(),
            legend: vec!["one".to_owned(), "two".to_owned()],
            groups: vec![Group {
                name: "walk".to_owned(),
                bars: vec![bar(1.0), bar(3.5)],
            }],
            logarithmic: true,
            foot: vec!["a machine".to_owned()],
        };
        let svg = dir.path().join("a.svg");
        draw(&svg, &picture).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for part in ["Ratios", "ratio", "one", "two", "walk", "3.5", "a machine"] {
            assert!(text.contains(part), "{part}");
        }
        let png = dir.path().join("a.png");
        draw(&png, &picture).unwrap();
        assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(draw(Path::new("/nowhere/at/all/a.svg"), &picture).is_err());
        assert!(picture_file("a.jpg").is_err());
        assert!(picture_file("png").is_err());
    }
}
