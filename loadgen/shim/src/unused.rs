//! Functions of libxenctrl that oxenstored references through its OCaml library but never calls. The loader requires
//! all of these functions (the program is linked with `-z now`).

/// Aborts the process: no return value would be correct.
fn called(name: &str) -> ! {
    eprintln!("{name} is not available on the simulated host");
    std::process::abort()
}

macro_rules! unused {
    ($($name:ident)*) => {$(
        /// Aborts; never called.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() {
            called(stringify!($name))
        }
    )*};
}

unused! {
    xc_assign_device xc_cpumap_alloc xc_deassign_device xc_domain_create xc_domain_destroy
    xc_domain_increase_reservation_exact xc_domain_iomem_permission xc_domain_ioport_permission
    xc_domain_irq_permission xc_domain_max_vcpus xc_domain_pause xc_domain_resume
    xc_domain_set_memmap_limit xc_domain_sethandle xc_domain_setmaxmem xc_domain_shutdown
    xc_domain_unpause xc_error_code_to_desc xc_evtchn_alloc_unbound xc_evtchn_reset
    xc_get_cpu_featureset xc_get_max_cpus xc_getcpuinfo xc_physinfo xc_readconsolering
    xc_sched_credit_domain_get xc_sched_credit_domain_set xc_sched_id xc_send_debug_keys
    xc_shadow_control xc_test_assign_device xc_vcpu_getaffinity xc_vcpu_getcontext
    xc_vcpu_getinfo xc_vcpu_setaffinity xc_version xc_watchdog
}

/// The hypercall page of a kernel. The crate with Xen's numbers references it, and in unoptimised builds so does this
/// library; no hypercall is made through it.
#[unsafe(no_mangle)]
pub static HYPERCALL_PAGE: [u8; 0] = [];
