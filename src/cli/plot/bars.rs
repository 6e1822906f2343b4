//! Groups of horizontal bars, each with its value in words.

use plotters::prelude::*;

use super::{Area, COLOURS, FONT, Failed, Picture, footed, legend, titled};

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// How long it is, in the unit of the axis; without a value there is only its text.
    pub value: Option<f64>,
    /// What stands at its end.
    pub text: String,
}

/// What is compared with each other.
#[derive(Debug, Clone)]
pub struct Group {
    /// What it is.
    pub name: String,
    /// In the order of the legend.
    pub bars: Vec<Bar>,
}

/// A picture of bars.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What the length of a bar is, with its unit.
    pub axis: String,
    /// The contestants.
    pub legend: Vec<String>,
    /// From the top.
    pub groups: Vec<Group>,
    /// The axis is logarithmic: for ratios.
    pub logarithmic: bool,
    /// Lines at the foot.
    pub foot: Vec<String>,
}

/// Pixels of a bar, and between groups.
const BAR: i32 = 15;
const GAP: i32 = 12;
/// Pixels for the names of the groups, and for what stands at the ends of the longest bars.
const NAMES: i32 = 190;
const TEXTS: i32 = 120;
const AXIS: i32 = 52;

impl Picture for Bars {
    fn size(&self) -> (u32, u32) {
        let foot = self.foot.len() as u32 * 16 + 8;
        (1000, 34 + 26 + self.height().unsigned_abs() + foot)
    }

    fn paint<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static,
    {
        let area = titled(&footed(area, &self.foot)?, &self.title)?;
        self.paint_below_title(&area)
    }
}

impl Bars {
    /// Pixels that the bars and their axis take.
    pub fn height(&self) -> i32 {
        let bars: usize = self.groups.iter().map(|g| g.bars.len()).sum();
        let size = |n: usize, each: i32| i32::try_from(n).unwrap_or(i32::MAX / 64) * each;
        size(bars, BAR) + size(self.groups.len(), GAP) + AXIS
    }

    /// Draw the legend and the bars.
    ///
    /// # Errors
    /// Of the backend.
    pub fn paint_below_title<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static,
    {
        let colours = COLOURS.iter().cycle();
        let named = self.legend.iter().cloned().zip(colours.copied());
        let area = legend(area, &named.collect::<Vec<_>>())?;
        let values = || {
            self.groups
                .iter()
                .flat_map(|g| &g.bars)
                .filter_map(|b| b.value)
        };
        let longest = values().fold(f64::MIN_POSITIVE, f64::max);
        match self.logarithmic {
            true => {
                let shortest = values().fold(1.0, f64::min);
                self.paint_on(&area, (shortest / 1.6..longest.max(1.0) * 1.1).log_scale())
            }
            false => self.paint_on(&area, 0.0..longest * 1.02),
        }
    }

    fn paint_on<DB, X>(&self, area: &Area<DB>, scale: X) -> Result<(), Failed>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
        X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        X::CoordDescType: plotters::coord::ranged1d::ValueFormatter<f64>,
    {
        let height = self.height() - AXIS;
        let mut chart = ChartBuilder::on(area)
            .margin_left(NAMES)
            .margin_right(TEXTS)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(scale, height..0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(&self.axis)
            // 0.3 is not quite that in binary.
            .x_label_formatter(&|value| format!("{}", (value * 1e4).round() / 1e4))
            .label_style((FONT, 13))
            .light_line_style(BLACK.mix(0.04))
            .draw()?;
        let start = chart.x_range().start;
        // A ratio is a way from 1, to one side or the other.
        let foot = if self.logarithmic { 1.0 } else { start };
        let place = area.get_pixel_range();
        let (left, top) = (place.0.start, place.1.start);
        let mut y = GAP / 2;
        for group in &self.groups {
            let middle = y + i32::try_from(group.bars.len())? * BAR / 2;
            let at = chart.backend_coord(&(start, middle));
            area.draw(&Text::new(
                group.name.clone(),
                (14, at.1 - top - 7),
                (FONT, 13),
            ))?;
            for (bar, colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
                let value = bar.value.unwrap_or(foot);
                chart.draw_series([Rectangle::new(
                    [(foot, y + 1), (value, y + BAR - 1)],
                    colour.filled(),
                )])?;
                let end = chart.backend_coord(&(value.max(foot), y));
                let text = Text::new(
                    bar.text.clone(),
                    (end.0 - left + 5, end.1 - top + 2),
                    (FONT, 12),
                );
                area.draw(&text)?;
                y += BAR;
            }
            y += GAP;
        }
        if self.logarithmic {
            // As fast as what it is compared with.
            chart.draw_series([PathElement::new(
                vec![(1.0, height), (1.0, 0)],
                BLACK.mix(0.5),
            )])?;
        }
        Ok(())
    }
}
