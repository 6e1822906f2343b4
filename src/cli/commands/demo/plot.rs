//! The picture: what the store took over time, and what happened when.

use plotters::prelude::*;

use super::story::Told;
use crate::cli::plot::{Area, FONT, Failed, Picture};

const MB: f64 = 1e6;

impl Picture for Told {
    fn size(&self) -> (u32, u32) {
        (1100, 560)
    }

    fn paint<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static,
    {
        paint(area, self)
    }
}

fn paint<DB: DrawingBackend>(area: &Area<DB>, told: &Told) -> Result<(), Failed>
where
    DB::ErrorType: 'static,
{
    let end = told
        .samples
        .last()
        .map_or(1.0, |s| s.at)
        .max(told.moments.last().map_or(1.0, |m| m.at));
    let stacked = |n: usize| {
        told.samples.iter().map(move |s| {
            let shares = [
                s.usage.live.bytes,
                s.usage.pending.bytes + s.usage.reclaiming.bytes,
                s.usage.unused.bytes
                    + s.usage.orphaned.bytes
                    + s.usage.containers.bytes
                    + s.usage.metadata.bytes,
            ];
            (s.at, shares[..=n].iter().sum::<u64>() as f64 / MB)
        })
    };
    let top = stacked(2).map(|p| p.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("layerctl rmi --force under a mounted view", (FONT, 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end * 1.08, 0.0..top * 1.9)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the beginning")
        .y_desc("megabytes on the disk")
        .label_style((FONT, 14))
        .draw()?;
    let shares = [
        (
            2,
            "databases, configs, what containers wrote, being unpacked",
            RGBColor(200, 200, 200),
        ),
        (
            1,
            "marked layers, pinned by the view",
            RGBColor(230, 140, 40),
        ),
        (0, "layers that an image names", RGBColor(70, 130, 180)),
    ];
    for (n, label, colour) in shares {
        chart
            .draw_series(AreaSeries::new(stacked(n), 0.0, colour.mix(0.9)))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 6), (x + 14, y + 6)], colour.filled()));
    }
    for (moment, n) in told.moments.iter().zip(0_u32..) {
        let at = moment.at;
        // One above the other: some follow each other closely.
        let height = top * (1.5 - 0.055 * f64::from(n % 8));
        chart.draw_series([PathElement::new(
            vec![(at, 0.0), (at, height)],
            BLACK.mix(0.5).stroke_width(1),
        )])?;
        let text = Text::new(format!(" {}", moment.what), (at, height), (FONT, 12));
        chart.draw_series([text])?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.4))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}
