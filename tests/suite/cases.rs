//! The list of the tests, with what each needs of the machine.

use super::*;
use crate::harness::needs::{Case, Need};

/// Registers functions under `topic::name`, all with the same needs.
macro_rules! cases {
    ($needs:expr => $($topic:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
        vec![$($(Case {
            name: concat!(stringify!($topic), "::", stringify!($name)),
            run: $topic::$name,
            needs: $needs.to_vec(),
        }),*),*]
    };
}

/// As `cases!`, on layers that are indexed as a store's are.
macro_rules! indexed_cases {
    ($needs:expr => $($topic:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
        vec![$($(Case {
            name: concat!(stringify!($topic), "::indexed::", stringify!($name)),
            run: || union_support::with_index($topic::$name),
            needs: $needs.to_vec(),
        }),*),*]
    };
}

/// As `cases!`, with views that kernel overlayfs serves.
macro_rules! overlay_cases {
    ($needs:expr => $($topic:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
        vec![$($(Case {
            name: concat!(stringify!($topic), "::overlay::", stringify!($name)),
            run: || harness::store::by_overlayfs($topic::$name),
            needs: $needs.to_vec(),
        }),*),*]
    };
}

const STORE: &[Need] = &[Need::Disk, Need::Root];
const VIEW: &[Need] = &[Need::Disk, Need::Root, Need::Fuse];
const VIEW_ON_DISK: &[Need] = &[Need::Disk, Need::Root, Need::Fuse, Need::LoopDevice];
const STORE_ON_DISK: &[Need] = &[Need::Disk, Need::Root, Need::LoopDevice];
const BESIDE_OVERLAY: &[Need] = &[Need::Disk, Need::Root, Need::Fuse, Need::Overlay];
const BY_OVERLAY: &[Need] = &[Need::Disk, Need::Root, Need::OverlayMount];
const BY_OVERLAY_ON_DISK: &[Need] = &[Need::Disk, Need::Root, Need::OverlayMount, Need::LoopDevice];
const RUN: &[Need] = &[
    Need::Disk,
    Need::Root,
    Need::Fuse,
    Need::Tool("runc"),
    Need::Tool("busybox"),
];
const STRACE: &[Need] = &[Need::Disk, Need::Root, Need::Tool("strace")];
const STRACE_VIEW: &[Need] = &[Need::Disk, Need::Root, Need::Fuse, Need::Tool("strace")];
const UNSHARE: &[Need] = &[Need::Disk, Need::Root, Need::Tool("unshare")];
const UNSHARE_VIEW: &[Need] = &[Need::Disk, Need::Root, Need::Fuse, Need::Tool("unshare")];

/// All of them.
pub fn cases() -> Vec<Case> {
    let skopeo = &[Need::Tool("skopeo")];
    let docker = &[Need::Tool("docker"), Need::Tool("dockerd")];
    let bench = &[Need::Root, Need::LoopDevice, Need::Tool("mkfs.ext4")];
    let compressors = &[Need::Tool("gzip"), Need::Tool("xz"), Need::Tool("zstd")];
    let python = &[Need::Tool("python3")];
    // What `exact_trees` makes its trees and images with.
    let tree = &[
        Need::Tool("umoci"),
        Need::Tool("setfattr"),
        Need::Tool("setfacl"),
    ];
    // What `archives_tools` makes its images with.
    let podman = &[
        STORE,
        &[Need::Overlay, Need::Tool("setfattr"), Need::Tool("runc")],
        &[Need::Tool("buildah"), Need::Tool("podman")],
    ]
    .concat()[..];
    [
        cases!(STORE => rmi::{
            unused_goes, one_of_several_tags_is_only_untagged, several_tags_by_id,
            stopped_is_refused_without_force, stopped_with_force,
        }),
        cases!(VIEW => rmi::{
            exited_is_refused_without_force, stopped_container_starts_again_after_load,
            mounted_is_refused_without_force, mounted_with_force,
            mounted_one_of_several_tags_is_only_untagged, mounted_several_tags_by_id,
            layers_wait_for_the_last_view,
        }),
        cases!(STORE => rmi_options::{
            several_names, missing_names, repeated_ids, the_same_tag_twice, prefixes,
            a_name_goes_before_a_prefix, an_ambiguous_prefix_is_refused, no_prune_keeps_the_layers, kept_layers_are_used_again,
            dry_run_of_an_unused_image, dry_run_of_one_tag, dry_run_of_all_tags_one_by_one,
        }),
        cases!(VIEW => rmi_options::{
            no_prune_of_a_mounted_image, dry_run_of_a_mounted_image, dry_run_of_what_is_refused,
            several_names_mounted_and_not,
        }),
        cases!(RUN => run::{
            in_the_foreground, killed_by_a_signal, detached_from_it, removed_at_its_end,
            programs_that_cannot_run, refused, binary_output, input, outlives_its_command,
            signals_are_passed_on, no_zombies,
        }),
        cases!(RUN => run_options::{
            the_images_own, environment, users, working_directories, binds, a_read_only_root,
            names_and_networks, proc_dev_and_sys, create_and_start,
        }),
        cases!([RUN, &[Need::Tool("setsid")]].concat() => run_terminal::{
            keys_and_size, sizes_and_interrupts, of_one_more_process, without_ours, joined_later,
            ended_from_outside,
        }),
        cases!(RUN => run_chaos::{nothing_is_left_over}),
        cases!(RUN => run_states::{
            stopped, signalled, paused, waited_for, entered, logged, joined, shown_and_removed,
            its_monitor_is_told_to_end, entered_by_a_slow_reader,
            entered_where_the_runtime_waits_for_ever,
        }),
        cases!(RUN => run_moments::{
            signalled_before_it_runs, ended_while_it_is_started, removed_when_it_never_ran,
            its_end_is_not_on_record_yet, its_monitor_is_stopped, interrupted_at_any_moment,
            started_twice_at_once, ended_while_its_reader_lags,
        }),
        cases!([RUN, &[Need::LoopDevice]].concat() => run_moments::{
            it_ends_on_a_full_disk, its_log_is_emptied_on_a_full_disk,
        }),
        cases!(RUN => run_removal::{
            refused_without_force, with_force, the_layers_go_with_its_end, several_tags,
            several_containers, layers_that_another_image_needs, kept_layers, dry_run,
            loaded_again_meanwhile, a_container_that_goes,
        }),
        cases!(RUN => run_trouble::{
            its_monitor_is_killed, its_monitor_is_killed_under_others, killed_at_any_moment,
            commands_killed_at_any_moment, after_a_reboot, leftovers_in_its_directory,
            runtimes_that_fail, held_from_outside,
        }),
        cases!([RUN, &[Need::Tool("unshare")]].concat() => run_trouble::{without_a_runtime}),
        cases!([RUN, &[Need::LoopDevice]].concat() => run_trouble::{
            on_a_full_disk, a_log_that_does_not_fit,
        }),
        cases!(RUN => run_many::{
            a_hundred, one_container, many_enter_one, one_name, runs_against_removals,
        }),
        cases!([RUN, &[Need::Tool("sha256sum")]].concat() => run::{
            much_output_to_a_slow_reader,
        }),
        cases!(VIEW_ON_DISK => handles::{
            a_file_being_read, a_mapped_file, an_open_directory, a_running_program,
            a_working_directory, a_file_deleted_in_the_view,
        }),
        cases!(VIEW => handles::{
            writes_after_lazy_umount_are_kept, a_busy_view_names_its_users,
            one_upper_directory_has_one_server, a_detached_view_in_ps,
            a_mounted_container_is_removed_by_force, a_busy_container_is_removed_by_force,
            a_view_that_ends_while_its_container_is_removed,
        }),
        cases!(STORE_ON_DISK => sharing::{a_shared_layer_is_stored_once}),
        cases!(STORE => sharing::{both_at_once}),
        cases!(VIEW => sharing::{
            what_another_image_needs_stays, a_view_holds_the_shared_layer_for_an_image_long_gone,
            one_diff_in_two_chains, one_diff_twice_in_an_image,
            load_again_while_the_old_layers_are_held, generations,
        }),
        cases!(STORE => union_failures::{
            a_copy_up_where_times_cannot_be_set, a_rename_that_fails_after_it_emptied_the_target,
            a_hard_link_that_cannot_get_all_its_names, hard_links_below_a_directory_moved_again,
            truncation_copies_no_data, truncation_at_open_clears_capabilities,
            a_move_that_cannot_be_recorded, a_listing_is_taken_anew_from_the_beginning_only,
            a_default_acl_of_the_work_directory,
        }),
        cases!(BESIDE_OVERLAY => union_failures::{
            an_opaque_directory_on_the_way_of_a_redirect, random_stacks_beside_overlayfs,
        }),
        cases!(BESIDE_OVERLAY => view::{shows_what_overlayfs_shows, changes_as_overlayfs_changes}),
        cases!(VIEW => view::{
            containers_do_not_see_each_other, hard_links_survive_copy_up,
            a_read_only_view_refuses_writes, mounts_where_it_is_told,
            the_server_keeps_nothing_of_the_caller, in_the_foreground,
            in_the_foreground_everything_is_told, a_view_that_fails_exits_with_1,
        }),
        cases!(STRACE_VIEW => view::{volatile_skips_the_sync}),
        cases!(BY_OVERLAY => driver_overlay::{
            its_server_waits_for_the_end_of_every_use, what_is_read_through_it, killed_under_use,
            killed_and_used_from_elsewhere, killed_and_removed_by_force, volatile, refused,
            layers_that_show_nothing, as_many_layers_as_it_takes,
        }),
        cases!([BY_OVERLAY, &[Need::Fuse]].concat() => driver_overlay::{
            drivers_take_turns, what_a_killed_server_of_fuse_leaves, what_differs,
        }),
        cases!([BY_OVERLAY, &[Need::Tool("unshare")]].concat() => driver_overlay::{
            in_a_user_namespace, more_than_can_be_watched,
        }),
        cases!([BY_OVERLAY, &[Need::Tool("setpriv")]].concat() => driver_overlay::{without_privilege}),
        overlay_cases!(BY_OVERLAY_ON_DISK => handles::{
            a_file_being_read, a_mapped_file, an_open_directory, a_running_program,
            a_working_directory,
        }),
        overlay_cases!(BY_OVERLAY => handles::{
            writes_after_lazy_umount_are_kept, a_busy_view_names_its_users,
            one_upper_directory_has_one_server, a_detached_view_in_ps,
            a_mounted_container_is_removed_by_force, a_busy_container_is_removed_by_force,
            a_view_that_ends_while_its_container_is_removed,
        }),
        overlay_cases!(BY_OVERLAY => rmi::{
            exited_is_refused_without_force, stopped_container_starts_again_after_load,
            mounted_is_refused_without_force, mounted_with_force,
            mounted_one_of_several_tags_is_only_untagged, mounted_several_tags_by_id,
            layers_wait_for_the_last_view,
        }),
        overlay_cases!(BY_OVERLAY => rmi_options::{
            no_prune_of_a_mounted_image, dry_run_of_a_mounted_image,
        }),
        overlay_cases!(BY_OVERLAY => sharing::{
            what_another_image_needs_stays, a_view_holds_the_shared_layer_for_an_image_long_gone,
            one_diff_in_two_chains, one_diff_twice_in_an_image,
            load_again_while_the_old_layers_are_held, generations,
        }),
        overlay_cases!(BY_OVERLAY => view::{
            shows_what_overlayfs_shows, changes_as_overlayfs_changes,
            containers_do_not_see_each_other, a_read_only_view_refuses_writes,
            mounts_where_it_is_told, the_server_keeps_nothing_of_the_caller, in_the_foreground,
            in_the_foreground_everything_is_told, a_view_that_fails_exits_with_1,
        }),
        overlay_cases!(BY_OVERLAY => interrupts::{a_server_that_is_told_to_end}),
        overlay_cases!([BY_OVERLAY, &[Need::Tool("strace")]].concat() => crash::{
            killed_removals_under_a_view, killed_unmounts, killed_mounts,
            servers_killed_while_reclaiming,
        }),
        overlay_cases!(BY_OVERLAY => crash::{
            a_killed_server_is_seen_by_any_command, a_killed_server_holds_nothing,
        }),
        overlay_cases!(BY_OVERLAY => concurrency::{
            mounts_against_removals, ten_containers_come_and_go_together, one_container_is_mounted_once,
        }),
        overlay_cases!(BY_OVERLAY => chaos::{nothing_is_damaged_or_left_over}),
        overlay_cases!(BY_OVERLAY => listing::{containers, layers_and_df, gc_says_what_it_left}),
        overlay_cases!(BY_OVERLAY => places::{
            relative_and_linked_roots, views_at_odd_places, a_view_behind_a_link,
            a_mount_inside_a_view, a_view_bound_to_a_second_place,
        }),
        overlay_cases!([BY_OVERLAY, &[Need::Tool("unshare")]].concat() => namespaces::{
            a_server_in_another_mount_namespace, a_server_in_another_pid_namespace,
            commands_in_an_inner_pid_namespace,
        }),
        overlay_cases!(BY_OVERLAY => safeguards::{mount_points_in_the_store_are_refused}),
        overlay_cases!(BY_OVERLAY => fsck::{repair_lets_load_again, repair_under_a_view}),
        overlay_cases!(BY_OVERLAY => commit::{a_container_that_changed_nothing_adds_no_layer}),
        overlay_cases!(BY_OVERLAY => cp::{
            out_of_a_container, into_a_container, metadata, links_do_not_lead_out,
        }),
        overlay_cases!(BY_OVERLAY => random::{first_seed}),
        cases!(STORE => interrupts::{
            a_load_from_a_pipe, a_load_from_a_stalled_pipe, a_load_from_a_named_pipe,
            a_load_on_a_terminal, a_load_that_unpacks,
        }),
        cases!(VIEW => interrupts::{a_server_that_is_told_to_end}),
        cases!(STRACE => crash::{killed_removals, marking_killed_twice}),
        cases!(STORE => fsck::{a_container_without_its_directories}),
        cases!(STRACE => fsck::{a_removal_meanwhile_is_no_damage}),
        cases!(STRACE => syncs::{names_are_synced_once, a_new_container_is_synced}),
        cases!(STRACE_VIEW => syncs::{a_removal_of_what_is_held_syncs_its_promise}),
        cases!(STRACE_VIEW => crash::{
            killed_loads, killed_removals_under_a_view, killed_collections, killed_unmounts,
            killed_mounts, servers_killed_while_reclaiming, servers_killed_while_copying_up,
        }),
        cases!(STORE => crash::{loads_killed_by_the_clock}),
        cases!(VIEW => crash::{
            a_killed_server_is_seen_by_any_command, a_killed_server_holds_nothing,
            a_server_killed_under_open_files,
        }),
        cases!(STORE => concurrency::{
            first_commands_of_a_new_store, four_loads_of_one_archive, one_name_is_given_once, one_image_is_removed_once, one_container_is_removed_once,
        }),
        cases!(VIEW => concurrency::{
            loads_against_removals, a_load_around_a_removal, a_load_around_a_load, a_removal_while_a_load_unpacks, mounts_against_removals, ten_containers_come_and_go_together,
            one_container_is_mounted_once,
        }),
        cases!(VIEW => chaos::{nothing_is_damaged_or_left_over}),
        cases!([VIEW, skopeo].concat() => load::{oci_forms}),
        cases!(STORE => safeguards::{
            a_whole_leftover_is_adopted, what_is_mounted_in_the_store_is_spared,
            a_load_that_fails_at_its_end_leaves_nothing, a_load_whose_commit_fails_leaves_nothing,
            an_undeletable_layer_keeps_no_other,
        }),
        cases!(VIEW => safeguards::{
            a_half_deleted_leftover_is_not_adopted, mount_points_in_the_store_are_refused,
            a_layer_that_cannot_be_renamed_stops_nothing_else,
        }),
        cases!(STORE => index::{
            a_load_makes_them, fsck_finds_and_mends, deeper_than_files_may_be_open,
        }),
        cases!(VIEW => index::{
            a_view_makes_damaged_ones_anew, missing_ones_are_made_quietly,
            of_an_image_removed_under_its_view, cut_short_under_a_view,
        }),
        cases!(STORE => fsck::{
            damage_is_found_and_named, a_garbled_database_is_found,
        }),
        cases!(VIEW => fsck::{repair_lets_load_again, repair_under_a_view}),
        cases!(STORE => load::{
            compressed_as_a_whole, again_changes_nothing, quietly, lines_of_progress, bars_on_a_terminal,
            the_first_bad_layer_is_told, with_few_descriptors,
        }),
        cases!(STORE => load_memory::{entries_take_none}),
        cases!(VIEW => random::{first_seed, second_seed, third_seed}),
        cases!(VIEW => load::{
            as_many_layers_as_allowed, over_what_killed_loads_left,            from_standard_input, several_images_and_tags, a_tag_moves,
            prune_keeps_what_containers_use,
        }),
        cases!(STORE => bad_input::{
            images_that_are_not_there, containers_that_are_not_there, names_that_cannot_be,
            a_store_of_a_newer_version, without_permission, stores_that_cannot_be, a_closed_pipe,
            a_reader_that_goes_away,
        }),
        cases!(STORE => bad_archives::{
            broken_archives, archives_that_contradict_themselves, hostile_layers,
        }),
        cases!(VIEW => bad_input::{mount_points_that_cannot_be}),
        cases!(VIEW_ON_DISK => full_disk::{
            a_load_that_does_not_fit, an_import_and_a_save_that_do_not_fit, full_to_the_last_byte,
        }),
        cases!(UNSHARE => bad_input::{without_dev_fuse}),
        cases!([STORE_ON_DISK, &[Need::Tool("mkfs.ext4"), Need::Tool("tar")]].concat() => bench_load::{
            figures_and_a_picture, a_table, missing_and_failing_peers, interrupted, what_is_no_archive,
        }),
        cases!([STORE, &[Need::Tool("tar")]].concat() => bench_load::{without_root, in_a_directory}),
        cases!([STORE_ON_DISK, docker].concat() => bench_load::{beside_docker}),
        cases!([STORE_ON_DISK, &[Need::Overlay, Need::Tool("podman")]].concat() => bench_load::{beside_podman}),
        cases!([STORE_ON_DISK, &[Need::Overlay, Need::Tool("skopeo")]].concat() => bench_load::{beside_skopeo}),
        cases!([STORE_ON_DISK, &[Need::Tool("umoci")]].concat() => bench_load::{beside_umoci}),
        cases!([STORE_ON_DISK, &[Need::Tool("ctr"), Need::Tool("containerd")]].concat() => bench_load::{
            beside_containerd,
        }),
        cases!(STORE => listing::{
            images, images_without_a_config, tags, inspect_and_history,
            inspect_of_an_ambiguous_prefix, df_for_people, followed_events,
        }),
        cases!(STORE => events_follow::{
            beside_several_writers, ended_by_a_signal, until_a_time, chosen,
        }),
        cases!(STORE => exact_bytes::{without_views}),
        cases!(VIEW => exact_bytes::{with_views, after_its_server_was_killed}),
        cases!(VIEW_ON_DISK => exact_bytes::{nothing_without_a_name}),
        cases!(VIEW => waiting::{
            why_names_files, why_of_many_files, until_the_last_view_ends, of_what_was_not_removed,
            of_an_image_that_was_loaded_again, no_longer_than_it_may, after_its_server_was_killed,
            of_what_cannot_be_reclaimed, interrupted,
        }),
        cases!(UNSHARE_VIEW => namespaces::{
            a_server_in_another_mount_namespace, a_server_in_another_pid_namespace,
            commands_in_an_inner_pid_namespace,
        }),
        cases!(VIEW => listing::{
            containers, inspect_of_a_container, layers_and_df, why, events,
            events_of_a_tag_that_moves, gc_says_what_it_left,
        }),
        cases!([VIEW, bench].concat() => bench_reclaim::{
            a_made_image, several_sizes_and_shared_layers, an_archive_and_a_directory,
            wrong_arguments, interrupted, killed, peers_without_figures,
        }),
        cases!([VIEW, bench, &[Need::Overlay]].concat() => bench_reclaim::{the_overlay_driver}),
        cases!([VIEW, bench, docker].concat() => bench_reclaim::{docker}),
        cases!([VIEW, bench, &[Need::Tool("podman")]].concat() => bench_reclaim::{podman}),
        cases!([VIEW, bench, &[Need::Tool("setpriv"), Need::Tool("unshare")]].concat() => bench_reclaim::{
            without_root,
        }),
        cases!([VIEW, bench, &[Need::Tool("gnuplot")]].concat() => experiments::{
            an_open_but_deleted_file, shared_layers,
        }),
        cases!([VIEW_ON_DISK, &[Need::Overlay, Need::Tool("tar")]].concat() => bench_fs::{
            figures, peers_without_figures, interrupted, killed, in_a_directory, refused,
        }),
        cases!([VIEW_ON_DISK, &[Need::Overlay, Need::Tool("fuse-overlayfs")]].concat() => bench_fs::{
            a_peer_that_hangs,
        }),
        cases!([STORE, &[Need::Tool("setpriv"), Need::Tool("tar")]].concat() => bench_fs::{without_root}),
        cases!(VIEW => demo::{of_this_machine, of_an_archive_with_a_plot, of_what_is_no_archive}),
        cases!([VIEW, &[Need::Tool("setfacl")]].concat() => places::{below_inherited_access_lists}),
        cases!(STORE => places::{root_from_the_environment}),
        cases!(VIEW => places::{
            relative_and_linked_roots, views_at_odd_places, a_view_behind_a_link,
            a_mount_inside_a_view, a_view_bound_to_a_second_place,
        }),
        cases!(VIEW => overlay::{
            mounts_and_changes, read_only_without_upper, by_other_names, what_is_refused,
            nothing_of_the_caller_is_kept, signals, a_killed_server, one_server_a_work_directory,
            owners_are_mapped, options_of_the_view,
        }),
        cases!([UNSHARE_VIEW, &[Need::Overlay]].concat() => overlay::{by_mount}),
        cases!([UNSHARE_VIEW, &[Need::Tool("setfattr")]].concat() => overlay::{in_a_user_namespace}),
        cases!([VIEW, python, &[Need::Tool("git"), Need::Tool("gcc")]].concat() => overlay::{real_programs}),
        cases!(STORE_ON_DISK => power::{
            a_finished_load_is_on_disk, a_finished_removal_is_on_disk, loads_cut_short,
        }),
        cases!(VIEW_ON_DISK => power::{
            what_a_container_synced_is_on_disk, copied_up_data_reaches_the_disk_before_its_name,
            a_view_and_its_removed_image,
        }),
        cases!(STORE => archives::{
            metadata, links, devices, long_and_odd_names, whiteouts, opaque_directories,
            the_last_entry_wins, missing_parents, private_attributes, acls, sparse_files_of_gnu_tar,
            digest_of_the_whole_stream, what_we_write_we_read, many_directories,
        }),
        cases!([STORE, compressors].concat() => archives::{whole_archive_compressed}),
        cases!(STORE => archives_hostile::{
            docker_archives, links_between_layers, oci_layouts, oci_platforms,
            oci_links_out_of_the_layout, outer_tars, a_compressed_layer_of_another_digest,
        }),
        cases!(&[] => fuzz::{seeds_are_in_the_corpus, tar_entries, pax, manifests, configs, indexes, tar_splits}),
        cases!(STORE => fuzz::{unpacking}),
        cases!(STORE => hostile_tars::{
            a_size_in_a_pax_header_wins, a_size_of_zero_in_a_pax_header_wins,
            a_pax_header_does_not_belong_to_what_is_between,
            a_directory_over_a_link_changes_nothing_elsewhere, what_has_no_data_has_none,
            sizes_that_lie, holes_without_end, an_outer_tar_that_disagrees,
        }),
        cases!(STORE => hostile_bombs::{
            of_counts_and_names, of_json, of_names_for_one_index, the_largest_window_fits, of_windows,
            of_what_a_layer_keeps,
        }),
        cases!(STORE => hostile_cuts::{a_cut_archive, a_cut_layer}),
        cases!(STORE => hostile_layers::{a_link_of_the_same_layer_as_a_directory, hard_links_across_layers}),
        cases!(VIEW => hostile_layers::{
            a_link_of_the_layer_below_as_a_directory, types_that_change, whiteouts_with_odd_names,
            device_nodes,
        }),
        cases!(STORE => archives_layers::{
            refused_entries, contained_entries, truncated_layers, mutated_layers, cancelled,
        }),
        cases!([podman, &[Need::Fuse, Need::Tool("busybox")]].concat() => overlay_podman::{
            by_its_own_name, by_the_name_of_fuse_overlayfs, with_a_forced_mask, running_containers,
        }),
        cases!([podman, &[Need::Tool("zstd")]].concat() => archives_tools::{podman_docker_archive}),
        cases!([podman, &[Need::Tool("gzip")]].concat() => archives_tools::{podman_oci}),
        cases!([podman, skopeo].concat() => archives_tools::{skopeo}),
        cases!([podman, &[Need::Tool("umoci")]].concat() => archives_tools::{umoci_layout}),
        cases!([podman, docker].concat() => archives_tools::{docker}),
        cases!([BESIDE_OVERLAY, docker, python].concat() => exact::{layers_in_docker}),
        cases!([podman, VIEW, python].concat() => exact::{layers_in_podman, layers_in_podman_on_vfs}),
        cases!([podman, VIEW, docker].concat() => exact_images::{of_this_machine}),
        cases!([VIEW, python, skopeo, &[Need::Tool("umoci")]].concat() => exact_images::{of_128_layers}),
        cases!([VIEW, python, skopeo].concat() => save_tools::{read_by_skopeo}),
        cases!([VIEW, python, skopeo, &[Need::Tool("umoci")]].concat() => save_tools::{unpacked_by_umoci_as_before}),
        cases!([podman, VIEW, python].concat() => save_tools::{read_by_podman}),
        cases!([BESIDE_OVERLAY, docker, python].concat() => save_tools::{read_by_docker}),
        cases!([VIEW, tree].concat() => exact_trees::{by_gnu_tar}),
        cases!([VIEW, tree, &[Need::Tool("bsdtar")]].concat() => exact_trees::{by_bsdtar}),
        cases!([BESIDE_OVERLAY, docker, tree].concat() => exact_trees::{in_docker}),
        cases!([podman, VIEW, tree].concat() => exact_trees::{in_podman}),
        cases!([VIEW, docker, python, &[Need::Tool("umoci")]].concat() => exact::{layers_that_docker_refuses}),
        cases!(STORE => union::{
            an_unlinked_name_and_one_not_looked_up, whiteouts_only_where_needed,
            removed_trees_do_not_come_back, copy_up_keeps_everything,
            copy_up_leaves_the_parents_times, hard_links_survive_copy_up,
            hard_links_below_moved_directories, an_early_reader_sees_later_writes, numbers_stay,
            private_xattrs_are_hidden, labels_are_the_hosts, leftovers_are_removed_at_start, redirects_in_layers,
            an_opaque_root_hides_the_layers_below, names, errors_are_not_absence,
            a_null_device_is_no_whiteout, nothing_is_left_counted,
        }),
        cases!(STORE => metacopy::{
            attributes_copy_no_data, the_first_write_completes_the_copy, names_come_and_go,
            unlinked_while_open, cut_off_without_a_copy, no_space_to_complete,
            data_that_have_vanished, what_a_crash_leaves, metacopies_in_layers,
        }),
        cases!([STORE_ON_DISK, &[Need::Tool("mkfs.xfs")]].concat() => metacopy::{
            data_are_shared_where_the_disk_can,
        }),
        cases!(STORE_ON_DISK => metacopy::{
            a_redirect_that_does_not_fit, a_power_cut_after_the_copy_was_completed,
        }),
        cases!([BESIDE_OVERLAY, &[Need::Tool("setfattr")]].concat() => metacopy::{
            overlayfs_and_a_view_take_turns,
        }),
        cases!(STORE => union_indexed::{
            an_index_cut_short_under_its_view,
            metadata_come_from_the_index_alone, numbers_are_those_of_the_index,
            numbers_are_good_without_their_directories,
        }),
        cases!(VIEW => union_indexed::{a_large_view_takes_little_memory}),
        indexed_cases!(STORE => union::{
            an_unlinked_name_and_one_not_looked_up, whiteouts_only_where_needed,
            removed_trees_do_not_come_back, copy_up_keeps_everything,
            copy_up_leaves_the_parents_times, hard_links_survive_copy_up,
            hard_links_below_moved_directories, an_early_reader_sees_later_writes, numbers_stay,
            private_xattrs_are_hidden, labels_are_the_hosts, leftovers_are_removed_at_start,
            an_opaque_root_hides_the_layers_below, names, a_null_device_is_no_whiteout,
        }),
        indexed_cases!(STORE => union_model::{random_operations, random_layers_without_operations}),
        indexed_cases!(BESIDE_OVERLAY => union_mount::{
            shows_what_overlayfs_shows, overlayfs_reads_what_a_view_wrote,
        }),
        indexed_cases!(VIEW => union_mount::{
            an_open_file_outlives_its_names, a_removed_working_directory, wide_directories,
            entries_come_and_go_while_listed, read_only, two_hundred_layers, many_processes_at_once,
        }),
        cases!(STORE_ON_DISK => union::{no_copy_up_without_the_attributes}),
        cases!(VIEW => union::{a_dead_layer_is_not_an_empty_one}),
        cases!(STORE => union_model::{random_operations, random_layers_without_operations}),
        cases!(VIEW => union_peers::{
            names_of_252_to_255_bytes, paths_at_path_max, numbers_that_the_disk_reuses,
            the_servers_umask, attributes_of_symlinks, a_hard_link_then_a_copy_up,
            times_with_nanoseconds, changes_show_in_ctime, a_null_device, every_byte_in_names,
            a_directory_of_many_entries, two_hundred_layers_of_an_image,
        }),
        indexed_cases!(VIEW => union_peers::{
            names_of_252_to_255_bytes, attributes_of_symlinks, a_hard_link_then_a_copy_up,
            times_with_nanoseconds, changes_show_in_ctime, a_null_device, every_byte_in_names,
            a_directory_of_many_entries,
        }),
        cases!(VIEW_ON_DISK => union_trouble::{a_layer_whose_disk_fails}),
        cases!(VIEW => union_trouble::{
            a_layer_that_vanishes, a_copy_up_that_does_not_fit, names_too_long_and_loops,
            writes_that_do_not_fit,
        }),
        cases!(BESIDE_OVERLAY => union_trouble::{a_name_too_long_for_its_whiteout}),
        cases!(VIEW => union_model_mounted::{random_operations}),
        indexed_cases!(VIEW => union_model_mounted::{random_operations}),
        cases!(BESIDE_OVERLAY => union_mount::{
            shows_what_overlayfs_shows, overlayfs_reads_what_a_view_wrote,
        }),
        cases!(STORE => union_plain::{
            both_forms_are_read, marks_cannot_be_made_or_seen, devices_are_made_where_they_can_be,
            private_attributes_of_others, owners_and_modes_in_an_attribute,
        }),
        cases!(BESIDE_OVERLAY => union_plain::{files_are_made_where_devices_cannot_be}),
        cases!(BESIDE_OVERLAY => union_model::{random_operations_with_whiteout_files}),
        cases!([VIEW, python].concat() => union_mount::{
            mapped_pages_are_coherent, paths_longer_than_path_max,
        }),
        cases!([VIEW, &[Need::Tool("setfacl")]].concat() => union_mount::{default_acls_and_umask}),
        cases!([BESIDE_OVERLAY, python, &[Need::Tool("setfacl")]].concat() => union_io::{
            the_other_mode_is_no_worse,
        }),
        cases!([VIEW, python].concat() => union_io::{mappings_are_of_the_one_file, locks}),
        cases!(VIEW => union_io::{
            one_inode_opened_by_many, times_of_mapped_files, attributes_follow_every_write, running_programs, appends,
            direct_io, holes, ranges_are_copied, removed_files_live_on, creating,
            more_open_files_than_descriptors, requests_that_are_spared,
        }),
        cases!([VIEW, &[Need::Tool("setfacl")]].concat() => union_caching::{
            default_acls_are_never_stale,
        }),
        cases!([VIEW, python].concat() => union_caching::{
            changes_clear_set_id_as_elsewhere,
        }),
        cases!(VIEW => union_caching::{
            listings_are_never_stale, many_readers_of_a_changing_directory,
            numbers_in_listings_survive_copy_up, the_parent_of_a_moved_directory,
            names_and_links_are_never_stale, attributes_are_never_stale,
        }),
        cases!(VIEW => commit::{
            the_image_shows_what_the_view_shows, a_container_that_changed_nothing_adds_no_layer,
            what_the_image_says, refused, what_a_layer_cannot_hold, interrupted,
        }),
        cases!([VIEW, &[Need::Tool("runc"), Need::Tool("busybox")]].concat() => commit::{
            a_running_container_is_paused, mounts_of_a_running_container,
        }),
        cases!(VIEW_ON_DISK => commit::{a_full_disk}),
        cases!(STORE => steering::{a_wrong_rate_changes_nothing, orphans_follow_the_rate}),
        cases!(VIEW => steering::{
            a_wrong_rate_of_a_server, the_price_is_told, the_price_as_json, the_variable_is_the_default,
            large_files_are_cut_in_steps, open_files_are_not_cut, the_disk_is_left_to_others,
            killed_collections, interrupted_collections, servers_that_end_in_the_middle, two_collections,
        }),
        cases!(VIEW_ON_DISK => steering::{a_power_cut}),
        cases!(VIEW => cp::{
            out_of_a_container, into_a_container, metadata, to_a_stream, from_a_stream, links_do_not_lead_out,
            links_that_come_and_go_do_not_lead_out, a_file_that_cannot_be_written,
        }),
        cases!(STORE => container_files::{renames}),
        cases!(STORE => import::{with_options, refused, interrupted}),
        cases!(VIEW => import::{of_every_form}),
        cases!(STORE => save::{
            comes_back_as_it_went_in,
            several_images_and_their_tags,
            refused,
            what_has_changed_is_not_saved,
            an_image_that_is_removed_meanwhile,
            interrupted,
            many_layers,
        }),
        cases!(VIEW => container_files::{
            diff_shows_every_kind_of_change, a_created_container_stays_created,
            diff_after_the_image_was_removed, diff_hides_mount_points,
            export_is_what_the_view_shows, export_leaves_no_half_file,
            an_interrupted_export_leaves_no_view, a_killed_server_of_a_transient_view, mounting_waits_for_a_transient_view, deep_trees,
        }),
        cases!(VIEW => union_mount::{
            an_open_file_outlives_its_names, a_removed_working_directory,
            lazily_detached_and_mounted_over, wide_directories, entries_come_and_go_while_listed,
            read_only, two_hundred_layers, a_full_disk, errors_say_where, many_processes_at_once,
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}
